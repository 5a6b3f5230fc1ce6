"""What a network or a student is trained to do before anybody asks it anything."""
