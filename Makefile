# `make demo`, `make gui` and `make test`: each is enough on a fresh Debian 12 machine with git and make.
BUILD := build
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
DEMO_DIR ?= demo-out
CMAKE_FLAGS ?=

.PHONY: help build demo gui test packages packages-gui packages-test clean
help:
	@echo "make demo    build, record the embedded model, replay every policy at eight budgets (output in $(DEMO_DIR)/)"
	@echo "make gui     build the graphical program and open the demo in it (records the demo first if it is not there)"
	@echo "make test    build everything and run all tests"
	@echo "make build   build $(BUILD)/bin/kvgrind"
	@echo "make clean   remove $(BUILD)/ and $(DEMO_DIR)/"

# Installs what .debian-packages lists and the machine lacks; without root or sudo it says what to install and exits 7.
packages:
	@.ci/packages build
packages-gui:
	@.ci/packages build gui
packages-test:
	@.ci/packages build test gui

# Configured once; afterwards ninja sees to changes. The program alone needs no test packages.
build: packages
	@test -f $(BUILD)/build.ninja || cmake --preset release -DKVGRIND_TESTS=OFF $(CMAKE_FLAGS)
	@cmake --build $(BUILD) --parallel $(JOBS) --target kvgrind

demo: build
	@$(BUILD)/bin/kvgrind demo -o $(DEMO_DIR) --force

# Configured again, because Qt may have come since the last time.
gui: packages-gui
	@cmake --preset release -DKVGRIND_GUI=ON $(CMAKE_FLAGS)
	@cmake --build $(BUILD) --parallel $(JOBS) --target kvgrind kvgrind-gui
	@test -f $(DEMO_DIR)/demo.kvt || $(BUILD)/bin/kvgrind demo -o $(DEMO_DIR) --force
	@$(BUILD)/bin/kvgrind gui $(DEMO_DIR)/demo.kvt $(DEMO_DIR)/results.jsonl

test: packages-test
	@grep -qs '^KVGRIND_TESTS:BOOL=ON' $(BUILD)/CMakeCache.txt && test -f $(BUILD)/build.ninja && \
	  { grep -qs '^KVGRIND_GUI:STRING=OFF' $(BUILD)/CMakeCache.txt || grep -qs '^QCustomPlotQt6_DIR:PATH=/' $(BUILD)/CMakeCache.txt; } || \
	  cmake --preset release -DKVGRIND_TESTS=ON $(CMAKE_FLAGS)
	@cmake --build $(BUILD) --parallel $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error --parallel $(JOBS)

clean:
	rm -rf $(BUILD) $(DEMO_DIR)
