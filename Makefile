# Builds the library, the tools, the examples and the tests; `make help` lists what there is to ask for.
# Sources are found by folder: a file that arrives or goes needs no line here, and what was made of the old
# set is made anew. CC, CXX, CPPFLAGS, CFLAGS, CXXFLAGS, LDFLAGS, LDLIBS, PREFIX and DESTDIR are the caller's.
# The flags that the results depend on come after them: every result is defined to the bit
# (tensor/numerics.h), so products may never be contracted behind our back. There is no -march here either:
# code for one instruction set lives in target regions of ggml-cpu/isa and is chosen at run time.

config ?= release
configs := release debug sanitize undefined thread scalar aarch64 coverage
ifeq ($(filter $(config),$(configs)),)
$(error config=$(config) is not known; there are: $(configs))
endif

ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc)    # a -j of the caller's comes first
endif
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:
.DELETE_ON_ERROR:

# libFuzzer is clang's.
CLANG_ONLY := $(filter sanitize coverage,$(config))

# The first compiler there is, unless the caller chose one; and the C compiler and the archiver that belong to
# it.
COMPILERS := $(if $(filter aarch64,$(config)),aarch64-linux-gnu-g++,$(if $(CLANG_ONLY),clang++,g++ clang++))
ifeq ($(origin CXX),default)
CXX := $(firstword $(foreach c,$(COMPILERS),$(if $(shell command -v $c 2>/dev/null),$c)) $(COMPILERS))
endif
ifeq ($(origin CC),default)
CC := $(or $(filter-out $(CXX),$(subst g++,gcc,$(subst clang++,clang,$(CXX)))),cc)
endif
ifeq ($(origin AR),default)
AR = $(shell $(CXX) -print-prog-name=ar)
endif
export CC CXX

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include

# 0.2.0 makes the file libdeepseek.so.0.2; the ABI number is what programs ask the dynamic linker for,
# libdeepseek.so.1.
header_value = $(shell awk '$$2 == "$1" { gsub(/"/, "", $$3); print $$3 }' deepseek.h)
VERSION := $(call header_value,DS_VERSION)
SONAME := libdeepseek.so.$(call header_value,DS_ABI_VERSION)

# ---- Where things lie: build/bin, build/lib, and build/<config>/… for every other configuration

B := $(if $(filter release,$(config)),build,build/$(config))
OBJ := $(B)/obj
BIN := $(B)/bin
LIB := $(B)/lib
STATIC := $(LIB)/libdeepseek.a
SHARED := $(LIB)/libdeepseek.so.$(basename $(VERSION))
# The CUDA backend, which the library opens when a device is asked for: CUDA=1, as where nvcc is found, or
# CUDA=0. CUDA_ARCH: what machine code is made for.
CUDA_HOME ?= $(patsubst %/bin/nvcc,%,$(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard \
    /usr/local/cuda/bin/nvcc)))
CUDA ?= $(if $(and $(CUDA_HOME),$(filter release debug,$(config))),1,0)
CUDA_ARCH ?= sm_80 sm_86 sm_89 sm_90a
CUDA_SHARED := $(if $(filter 1,$(CUDA)),$(LIB)/libdeepseek-cuda.so)

# ---- Flags

# -g1: lines for a sanitizer's report, and a third less time to compile than -g. clang inlines nothing at -O1.
SAN := -fsanitize=address,undefined,leak -fno-sanitize-recover=all -fno-omit-frame-pointer
MODE_release = $(RELEASE)
MODE_scalar = $(RELEASE) -DDS_SCALAR_ONLY
MODE_aarch64 = $(RELEASE)
MODE_debug := -Og -g -D_GLIBCXX_ASSERTIONS
# One build for the tests and the fuzz targets: what an input reaches is what libFuzzer goes by; coverage
# counts the same by lines. Comparisons are not traced: to do so takes two fifths of the time, and what
# changes inputs knows the words and lengths that matter (tests/fuzz/forms.cpp).
MODE_sanitize := -O2 -g1 -D_GLIBCXX_ASSERTIONS $(SAN) -fsanitize=fuzzer-no-link \
    -fno-sanitize-coverage=trace-cmp
MODE_undefined := -O1 -g1 -D_GLIBCXX_ASSERTIONS -fsanitize=undefined -fno-sanitize-recover=all
MODE_thread := -O1 -g1 -fsanitize=thread
MODE_coverage := -O1 -g1 -DDS_SCALAR_ONLY -fprofile-instr-generate -fcoverage-mapping \
    -fsanitize=fuzzer-no-link
LINK_sanitize := $(SAN)
LINK_undefined := -fsanitize=undefined
LINK_coverage := -fprofile-instr-generate -fsanitize=fuzzer-no-link
LINK_thread := -fsanitize=thread

# CMakeLists.txt reads these three lines. Fields that a designated initializer leaves out are zero on purpose;
# what goes from int to size_t is checked where it could be negative.
WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Wno-missing-field-initializers
ALWAYS := -fPIC -ffp-contract=off -fno-math-errno
RELEASE := -O2 -DNDEBUG
COMPILER_PACKAGE := $(if $(CLANG_ONLY),clang libclang-rt-dev,g++)
COMPILER_PACKAGE := $(if $(filter aarch64,$(config)),g++-aarch64-linux-gnu,$(COMPILER_PACKAGE))
# Sources by their whole path and options in CMake's order, so that a compiler cache serves both.
COMPILE_C = $(CC) $(DEFINES) $(MODE_$(config)) $(CPPFLAGS) $(CFLAGS) \
    -fvisibility=hidden $(WARNINGS) $(if $(WERROR),-Werror) $(ALWAYS) -std=c11
COMPILE_CXX = $(CXX) $(DEFINES) $(MODE_$(config)) $(CPPFLAGS) $(CXXFLAGS) \
    -fvisibility=hidden -fvisibility-inlines-hidden $(WARNINGS) $(if $(WERROR),-Werror) $(ALWAYS) -std=c++20
LINK = $(CXX) $(LDFLAGS) $(LINK_$(config)) -pthread
# For chips that come later, the PTX of the last kind is there too, without what only that kind has.
gencode = $(foreach a,$(CUDA_ARCH),-gencode arch=$(a:sm_%=compute_%),code=$a)
ptx = $(patsubst sm_%,compute_%,$(patsubst %a,%,$(lastword $(CUDA_ARCH))))
COMPILE_CUDA = $(CUDA_HOME)/bin/nvcc -O3 -std=c++20 -DNDEBUG \
    $(gencode) -gencode arch=$(ptx),code=$(ptx) $(NVCCFLAGS) \
    -fmad=false -ftz=false -prec-div=true -prec-sqrt=true \
    -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off,-Wall

# Objects by folder; what a file sees beyond its own folder is its own business (tests/check_includes), but
# for these:
$(OBJ)/examples/%.o: DEFINES := -I$(CURDIR)
# The tests' own expressions are not what `undefined` is to watch. Most of a build's time would go into
# optimising checks that run once; but these compute.
TESTS_THAT_COMPUTE := cuda/% tensor/%_cases cpu/test_integers cpu/tile_model model/test_%
TESTS_THAT_COMPUTE += engine/test_scheduler
HERE_sanitize := -O1 -fno-sanitize=undefined,fuzzer-no-link
HERE_undefined := -fno-sanitize=undefined
EMULATED := $(and $(filter aarch64,$(config)),$(filter-out aarch64,$(shell uname -m)),-DDS_EMULATED)
OPTIMISED := $(addprefix tests/,$(TESTS_THAT_COMPUTE) bench/% device/%)
$(OBJ)/tests/%.o: DEFINES = -DDS_SOURCE_DIR='"$(CURDIR)"' $(EMULATED) -I$(CURDIR)
$(OBJ)/tests/%.o: HERE = $(HERE_$(config)) $(if $(filter $(OPTIMISED),$*),,-O0)
# Loops over numbers: what they compare says nothing about an input. The vector kernels take minutes to
# compile with the undefined-behaviour sanitizer, and with the address sanitizer's checks inline: the first is
# config=undefined's alone, the second are calls.
ifeq ($(config),sanitize)
$(OBJ)/ggml-cpu/%.o: HERE := -fno-sanitize=fuzzer-no-link
$(OBJ)/ggml-cpu/isa/%.o: HERE := -fno-sanitize=undefined,fuzzer-no-link -O1 -mllvm \
    -asan-instrumentation-with-call-threshold=0
endif
# Where the tests of the converter are not (TESTS_…), it makes their models, in no time.
$(OBJ)/quantize/%.o: HERE := $(if $(filter thread aarch64,$(config)),-O0)

# ---- Sources

objects = $(patsubst %,$(OBJ)/%.o,$(basename $1))
LIB_O := $(call objects,$(wildcard deepseek.cpp) $(sort $(shell find api tensor ggml-cpu ggml-cuda/host llm \
    -name '*.cpp')))
CUDA_O := $(call objects,$(sort $(shell find ggml-cuda -path ggml-cuda/host -prune -o -name '*.cu' -print -o \
    -name '*.cpp' -print)))
TENSOR_O := $(filter $(OBJ)/tensor/%,$(LIB_O))
QUANTIZE_O := $(call objects,$(wildcard quantize/*.cpp))
# What it takes to convert a checkpoint.
CONVERTER_O := $(filter-out $(addprefix $(OBJ)/quantize/,main.o inspect.o measure.o mixed.o progress.o \
    smooth.o),$(QUANTIZE_O))
# Each file an example, and a folder for the one that has many.
EXAMPLES := $(basename $(notdir $(wildcard examples/*.c examples/*.cpp))) train
TRAIN_O := $(call objects,$(wildcard examples/train/*.cpp))
BENCH_O := $(call objects,$(wildcard tests/bench/*.cpp))
# The thread sanitizer is for what runs on several threads; an emulated processor is slow, and for what the
# instruction set decides.
TEST_ROOMS := support tensor cpu cuda text model engine train api quantize faults
TESTS_thread := support/main support/allocations support/problems engine/test_engine% engine/test_session \
    support/checkpoint_files train/test_trainer \
    engine/test_thinking cpu/test_thread%
TESTS_aarch64 := support/main tensor/%_cases tensor/test_ops cpu/test_integers tensor/test_numerics \
    tensor/test_formats tensor/test_os cpu/test_thread_pool engine/test_engine engine/test_bits
TESTS := $(wildcard $(TEST_ROOMS:%=tests/%/*.cpp))
TESTS := $(if $(TESTS_$(config)),$(filter $(TESTS_$(config):%=tests/%.cpp),$(TESTS)),$(TESTS))
TESTS_O := $(call objects,$(TESTS))
# As tests/run runs them.
TEST_PROGRAMS := $(if $(filter release scalar,$(config)),$(addprefix $(BIN)/,$(EXAMPLES) quantize))
TEST_PROGRAMS += $(if $(filter release,$(config)),$(B)/device/deepseek-tests)
FUZZ_TARGETS := gguf model adapter session train convert tokenizer json template imatrix
FUZZ_SHARED_O := $(call objects,$(addprefix tests/fuzz/,fuzz.cpp forms.cpp tiny.cpp))
FUZZ_O := $(FUZZ_SHARED_O) $(call objects,$(addprefix tests/fuzz/,seeds.cpp $(FUZZ_TARGETS:%=%.cpp)))
OTHER_O := $(FUZZ_O) $(TRAIN_O) $(call objects,$(addprefix examples/,$(EXAMPLES)) tests/side_by_side.c \
    tests/device/plugin.cpp)

# ---- What to ask for

#   make [lib]     the library: static and shared; and the CUDA backend, where nvcc is found and CUDA=0 is not
#                 said
lib: $(STATIC) $(LIB)/libdeepseek.so $(CUDA_SHARED)
#   make cuda      the CUDA backend alone, for CUDA_ARCH='sm_80 sm_86 …'
cuda: $(LIB)/libdeepseek-cuda.so

#   make chat      the library and the chat example, and a chat with the bundled model (or with
#                 MODEL=file.gguf)
MODEL ?= models/tiny-r1.gguf
chat: $(STATIC) $(LIB)/libdeepseek.so $(BIN)/chat
	@$(BIN)/chat $(MODEL)

#   make test      builds and runs every test; then config=aarch64's, where its compiler and qemu-aarch64 are
#                 found and AARCH64=no is not said
test: $(BIN)/deepseek-tests $(BIN)/side_by_side $(TEST_PROGRAMS) $(LIB)/libdeepseek.so $(STATIC)
	@tests/run $(config) $(B) $(MAKE)

# For who says tests, which is a folder.
tests: test

#   make tools     quantize, the examples, bench
tools: lib $(BIN)/quantize $(BIN)/bench examples
examples: $(EXAMPLES:%=$(BIN)/%)

#   make bench     tokens a second and GB/s of MODEL=file.gguf, with ARGS=… of bench's own
bench: $(BIN)/bench
	@$(BIN)/bench $(MODEL) $(ARGS)

#   make interop   our files in llama.cpp (from npm, where node is found): the same tokens, and both libraries
#                 in one process
#   make bench-peer  llama.cpp's speed beside ours, of MODEL=file.gguf
#   make bench-convert  time and memory of converting a large checkpoint, beside llama.cpp's quantizer
#                 (ARGS=--help tells what can be chosen)
LLAMA := linux-$(subst x86_64,x64,$(subst aarch64,arm64,$(shell uname -m)))
LLAMA := $(B)/interop/node_modules/@node-llama-cpp/$(LLAMA)/bins/$(LLAMA)
interop: lib $(BIN)/quantize $(BIN)/train $(BIN)/side_by_side
	@tests/interop/run $(BIN)
	@tests/interop/lora $(BIN)
	@if [ -d $(LLAMA) ]; then \
	    DS_LLAMA_DIR=$(LLAMA) $(BIN)/side_by_side $(SHARED) models/tiny-r1.gguf $(OBJ) && \
	    echo "side_by_side with llama.cpp: passed"; \
	fi
bench-peer: lib $(BIN)/bench
	@tests/interop/run $(BIN) --speed $(MODEL) $(ARGS)
bench-convert: lib $(BIN)/quantize
	@tests/interop/run $(BIN) --convert $(ARGS)

#   make fuzz      runs every fuzz target for SECONDS=60 each, two side by side; TARGET=name: that one,
#                 RUNS=n: so many inputs instead; SEED=n: the same ones each time. Needs clang; see
#                 tests/fuzz/run
#   make fuzz-coverage  the lines of the parsers that the targets' inputs reach
SECONDS ?= 60
CLANG ?= clang
WITH_CLANG = $(MAKE) --no-print-directory CUDA=0 CC='$(CLANG)' CXX='$(CLANG)++' V=$(V)
fuzz:
	@tests/deps --check clang libclang-rt-dev
	+@$(WITH_CLANG) config=sanitize fuzz-programs
	@SECONDS_EACH='$(SECONDS)' RUNS='$(RUNS)' SEED='$(SEED)' tests/fuzz/run build/sanitize/bin $(or \
	    $(TARGET),$(FUZZ_TARGETS))
fuzz-coverage:
	@tests/deps --check clang libclang-rt-dev llvm
	+@$(WITH_CLANG) config=coverage fuzz-programs
	@tests/fuzz/coverage build/coverage $(FUZZ_TARGETS)
fuzz-programs: $(FUZZ_TARGETS:%=$(BIN)/fuzz-%) $(BIN)/fuzz-seeds

#   make deps      installs what is missing, Debian packages, as root or through sudo; nothing else here
#                 installs anything
deps:
	@tests/deps $(COMPILER_PACKAGE) doctest-dev nlohmann-json3-dev libcli11-dev pkg-config cmake $(DEPS)
#   make format    clang-format 14 over the tree, as tests/check_format wants it; make tidy: clang-tidy's
#                 checks (.clang-tidy)
format:
	@tests/check_format --apply
tidy:
	@tests/check_tidy

#   make install   header, libraries, pkg-config file, CMake package, to $(DESTDIR)$(PREFIX)
#   make clean     removes build/
clean:
	rm -rf build

help:
	@sed -n 's/^#   //p' Makefile
	@echo 'config=$(subst $() ,|,$(configs))'
	@echo '               another build, in build/<config>; V=1 shows the commands'
	@echo '               aarch64 runs the tests that matter there, under qemu-aarch64 on another machine'

.PHONY: lib cuda chat test tests tools examples bench bench-peer bench-convert interop fuzz fuzz-coverage \
    fuzz-programs deps format tidy install clean help compiler packages FORCE
.DEFAULT_GOAL := lib

# ---- How things are made

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-5s %s\n' $1 $@)

# Rewritten only when the text changes, so that what depends on them is made anew exactly then.
$(OBJ)/settings: text = $(COMPILE_C) | $(COMPILE_CXX) | $(LINK) | $(CURDIR) | $(VERSION)
$(OBJ)/sources: text = $(LIB_O) $(QUANTIZE_O) $(BENCH_O) $(TESTS_O) $(TRAIN_O)
$(OBJ)/settings-cuda: text = $(COMPILE_CUDA) | $(CUDA_O) | $(LINK)
$(OBJ)/settings $(OBJ)/settings-cuda $(OBJ)/sources: FORCE | $(OBJ)
	@$(file >$@.new,$(text))if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi
$(OBJ) $(BIN) $(LIB):
	@mkdir -p $@

# Silent where nothing is missing; what is missing is named, and only `make deps` installs it.
# The library and the examples but batch and train need a compiler and no package.
compiler: $(filter deps,$(MAKECMDGOALS))
	@tests/deps --check $(COMPILER_PACKAGE)
packages: compiler
	@tests/deps --check doctest-dev nlohmann-json3-dev libcli11-dev
$(QUANTIZE_O) $(TESTS_O) $(BENCH_O) $(FUZZ_O) $(TRAIN_O) $(OBJ)/examples/batch.o: | packages

$(OBJ)/%.o: %.cpp $(OBJ)/settings | compiler
	$(call say,CXX)
	@mkdir -p $(@D)
	$(Q)$(COMPILE_CXX) $(HERE) -MMD -MP -MT $@ -MF $(@:.o=.d) -c -o $@ $(CURDIR)/$<
$(OBJ)/%.o: %.c $(OBJ)/settings | compiler
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(COMPILE_C) $(HERE) -MMD -MP -c -o $@ $(CURDIR)/$<
# Host code of the CUDA backend is compiled like all other; kernels by nvcc.
$(CUDA_O): HERE := -isystem $(CUDA_HOME)/include
$(OBJ)/%.o: %.cu $(OBJ)/settings-cuda | compiler
	$(call say,NVCC)
	@mkdir -p $(@D)
	$(Q)$(COMPILE_CUDA) -MMD -MP -c -o $@ $<
-include $(patsubst %.o,%.d,$(LIB_O) $(CUDA_O) $(QUANTIZE_O) $(BENCH_O) $(TESTS_O) $(OTHER_O))

$(STATIC): $(LIB_O) $(OBJ)/settings $(OBJ)/sources | $(LIB)
	$(call say,AR)
	@rm -f $@
	$(Q)$(AR) rcs $@ $(LIB_O)

# Only ds_* leaves the library: hidden visibility does not cover the standard library's templates, the version
# script does. -Bsymbolic: our own calls stay in this copy, whatever else the process has opened.
$(OBJ)/exports: Makefile | $(OBJ)
	@echo '{ global: ds_*; local: *; };' >$@
$(SHARED): $(LIB_O) $(OBJ)/settings $(OBJ)/sources $(OBJ)/exports | $(LIB)
	$(call say,LINK)
	$(Q)$(LINK) -shared -Wl,-Bsymbolic,-soname,$(SONAME) -Wl,--version-script,$(OBJ)/exports -o $@ $(LIB_O) \
	    -ldl $(LDLIBS)
$(LIB)/libdeepseek.so: $(SHARED)
	@ln -sf $(<F) $(LIB)/$(SONAME)
	@ln -sf $(SONAME) $@

# The runtime of CUDA goes in; cuBLAS and the driver are found when it is opened. It is opened by its name,
# and has no version: it tells itself whether it fits.
$(LIB)/libdeepseek-cuda.so: $(CUDA_O) $(TENSOR_O) $(OBJ)/settings $(OBJ)/settings-cuda $(OBJ)/exports | $(LIB)
	$(call say,LINK)
	$(Q)$(LINK) -shared -Wl,-Bsymbolic,--version-script,$(OBJ)/exports -o $@ $(CUDA_O) $(TENSOR_O) \
	    -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 \
	    -lcudart_static -lcublas -lcublasLt -ldl -lrt $(LDLIBS)

# Tests on a device that needs no graphics card (tests/device/plugin.cpp), which is found first because it
# lies beside them.
$(B)/device/libdeepseek-cuda.so: $(OBJ)/tests/device/plugin.o $(OBJ)/tests/cuda/fake_device.o $(filter \
    $(OBJ)/tensor/% $(OBJ)/ggml-cpu/%,$(LIB_O)) $(OBJ)/exports
	$(call say,LINK)
	@mkdir -p $(@D)
	$(Q)$(LINK) -shared -Wl,-Bsymbolic,--version-script,$(OBJ)/exports -o $@ $(filter %.o,$^) -ldl $(LDLIBS)
$(B)/device/deepseek-tests: $(BIN)/deepseek-tests $(B)/device/libdeepseek-cuda.so
	@cp -f $< $@

PROGRAMS := $(addprefix $(BIN)/,$(EXAMPLES) quantize bench deepseek-tests)
$(filter-out $(BIN)/train,$(EXAMPLES:%=$(BIN)/%)): $(BIN)/%: $(OBJ)/examples/%.o
$(BIN)/train: $(TRAIN_O)
$(BIN)/quantize: $(QUANTIZE_O)
$(BIN)/bench: $(BENCH_O)
$(BIN)/deepseek-tests: $(TESTS_O) $(if $(TESTS_$(config)),$(CONVERTER_O),$(filter-out %/main.o,$(QUANTIZE_O)))
# Of an inline function the first copy that the linker meets serves all: the library's, which are optimised,
# before the tests'. os.cpp is os_faults.cpp's to replace.
$(BIN)/deepseek-tests: FIRST_LINKED = $(filter-out %/tensor/os.o,$(LIB_O)) $(filter $(OBJ)/quantize/%,$^)
$(PROGRAMS): $(STATIC) $(OBJ)/settings $(OBJ)/sources | $(BIN)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $(FIRST_LINKED) $(filter-out $(FIRST_LINKED),$(filter %.o,$^)) $(STATIC) -ldl $(LDLIBS)
# It opens the shared library itself, twice, and is linked to nothing.
$(BIN)/side_by_side: $(OBJ)/tests/side_by_side.o $(OBJ)/settings | $(BIN)
	$(call say,LINK)
	$(Q)$(LINK) -o $@ $(filter %.o,$^) -ldl $(LDLIBS)

# What a target does beside its call is not what inputs are looked for, and what changes inputs is to be fast.
$(FUZZ_O): HERE := -fno-sanitize=fuzzer-no-link
$(FUZZ_SHARED_O): HERE += -fno-sanitize=all -O2
$(FUZZ_TARGETS:%=$(BIN)/fuzz-%): $(BIN)/fuzz-%: $(OBJ)/tests/fuzz/%.o
# Not LINK: what these programs are made of would inherit it, the settings among them, and the whole library
# would be made anew.
$(FUZZ_TARGETS:%=$(BIN)/fuzz-%): FUZZER := -fsanitize=fuzzer
$(BIN)/fuzz-model: $(OBJ)/tests/cuda/fake_device.o
$(BIN)/fuzz-seeds: $(OBJ)/tests/fuzz/seeds.o
$(FUZZ_TARGETS:%=$(BIN)/fuzz-%) $(BIN)/fuzz-seeds: $(FUZZ_SHARED_O) $(CONVERTER_O) $(STATIC) $(OBJ)/settings \
    | $(BIN)
	$(call say,LINK)
	$(Q)$(LINK) $(FUZZER) -o $@ $(filter %.o,$^) $(STATIC) -ldl $(LDLIBS)

# ---- Installing. CMakeLists.txt describes the same package to CMake; .ci/run compares what the two install.

define pkg_config_file
prefix=$(PREFIX)
libdir=$(LIBDIR)
includedir=$(INCLUDEDIR)

Name: deepseek
Description: Runs language models of the DeepSeek-R1 family from GGUF files
Version: $(VERSION)
Libs: -L$${libdir} -ldeepseek
Libs.private: -lstdc++ -lm -ldl -pthread
Cflags: -I$${includedir}
endef

# deepseek::deepseek is the shared library; deepseek::static is there by name. Found by its own place, so that
# the tree may be moved.
define cmake_package
include(CMakeFindDependencyMacro)
find_dependency(Threads)
if(NOT TARGET deepseek::deepseek)
  get_filename_component(deepseek_lib "$${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
  get_filename_component(deepseek_include
      "$${CMAKE_CURRENT_LIST_DIR}/$(shell realpath -m --relative-to=$(LIBDIR)/cmake/deepseek $(INCLUDEDIR))"
          ABSOLUTE)
  add_library(deepseek::shared SHARED IMPORTED)
  set_target_properties(deepseek::shared PROPERTIES IMPORTED_SONAME $(SONAME)
    IMPORTED_LOCATION "$${deepseek_lib}/$(notdir $(SHARED))" INTERFACE_INCLUDE_DIRECTORIES
        "$${deepseek_include}")
  add_library(deepseek::static STATIC IMPORTED)
  set_target_properties(deepseek::static PROPERTIES IMPORTED_LINK_INTERFACE_LANGUAGES CXX
      INTERFACE_LINK_LIBRARIES "Threads::Threads;$${CMAKE_DL_LIBS}"
    IMPORTED_LOCATION "$${deepseek_lib}/libdeepseek.a" INTERFACE_INCLUDE_DIRECTORIES "$${deepseek_include}")
  add_library(deepseek::deepseek INTERFACE IMPORTED)
  target_link_libraries(deepseek::deepseek INTERFACE deepseek::shared)
endif()
endef

# Before 1.0 a minor version may break what was built against another.
define cmake_version
set(PACKAGE_VERSION $(VERSION))
if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
  set(PACKAGE_VERSION_EXACT TRUE)
endif()
if("$${PACKAGE_FIND_VERSION_MAJOR}.$${PACKAGE_FIND_VERSION_MINOR}" VERSION_EQUAL $(basename $(VERSION)) AND
   NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
endef

D := $(DESTDIR)$(LIBDIR)
install: export pkg_config_file := $(pkg_config_file)
install: export cmake_package := $(cmake_package)
install: export cmake_version := $(cmake_version)
install: lib
	install -d "$(DESTDIR)$(INCLUDEDIR)" "$(D)/pkgconfig" "$(D)/cmake/deepseek"
	install -m 644 deepseek.h "$(DESTDIR)$(INCLUDEDIR)"
	install -m 644 $(STATIC) $(SHARED) $(CUDA_SHARED) "$(D)"
	ln -sf $(notdir $(SHARED)) "$(D)/$(SONAME)"
	ln -sf $(SONAME) "$(D)/libdeepseek.so"
	printf '%s\n' "$$pkg_config_file" >"$(D)/pkgconfig/deepseek.pc"
	printf '%s\n' "$$cmake_package" >"$(D)/cmake/deepseek/deepseekConfig.cmake"
	printf '%s\n' "$$cmake_version" >"$(D)/cmake/deepseek/deepseekConfigVersion.cmake"
