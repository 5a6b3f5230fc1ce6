"""The planner: candidate recipes, what they are expected to cost, which are worth measuring, which is best."""
