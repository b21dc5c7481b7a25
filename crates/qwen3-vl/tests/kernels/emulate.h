// Runs CUDA kernels on the CPU, to test what they compute where there is no GPU: one block of threads
// after the other, each thread a fiber that gives way where threads wait for each other. It knows
// nothing of memory hierarchies, speed or races between blocks.

#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__ static

using std::max;
using std::min;

struct Index {
  unsigned x, y, z;
};
static Index gridDim, blockDim, blockIdx, threadIdx;

namespace emulate {

constexpr unsigned WARP = 32;
constexpr size_t STACK = 256 << 10;

// A place where `count` threads wait for each other.
struct Barrier {
  unsigned arrived = 0, passed = 0;
};

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack{new char[STACK]};
  unsigned exchanges = 0;
  bool over = false;
  std::vector<std::pair<void *, const void *>> copies;
};

static ucontext_t scheduler;
static std::vector<Thread> threads;
static std::vector<Barrier> warps;
// What a thread shows the others of its warp: the values of a product at most.
struct Shown {
  unsigned words[6];
};
static std::vector<Shown> shown[2];
static Barrier block;
static const std::function<void()> *body;

inline Thread &self() { return threads[threadIdx.x]; }

inline void give_way() { swapcontext(&self().context, &scheduler); }

inline void wait(Barrier &barrier, unsigned count) {
  const unsigned before = barrier.passed;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    barrier.passed++;
  }
  while (barrier.passed == before) give_way();
}

inline void begin() {
  (*body)();
  self().over = true;
  give_way();
}

// A block whose threads wait for one that never comes would go round for ever.
constexpr unsigned LONGEST = 10'000'000;

inline void run_block() {
  for (unsigned i = 0; i < blockDim.x; i++) {
    Thread &thread = threads[i];
    thread.exchanges = 0;
    thread.over = false;
    getcontext(&thread.context);
    thread.context.uc_stack.ss_sp = thread.stack.get();
    thread.context.uc_stack.ss_size = STACK;
    makecontext(&thread.context, begin, 0);
  }
  bool going = true;
  for (unsigned round = 0; going; round++) {
    if (round == LONGEST) {
      fprintf(stderr, "a block of threads does not end\n");
      abort();
    }
    going = false;
    for (unsigned i = 0; i < blockDim.x; i++) {
      if (threads[i].over) continue;
      going = true;
      threadIdx = {i, 0, 0};
      swapcontext(&scheduler, &threads[i].context);
    }
  }
}

inline void run(const std::function<void()> &kernel) {
  body = &kernel;
  threads.resize(blockDim.x);
  warps.assign((blockDim.x + WARP - 1) / WARP, {});
  block = {};
  for (auto &of_threads : shown) of_threads.assign(blockDim.x, {});
  for (unsigned z = 0; z < gridDim.z; z++)
    for (unsigned y = 0; y < gridDim.y; y++)
      for (unsigned x = 0; x < gridDim.x; x++) {
        blockIdx = {x, y, z};
        run_block();
      }
}

}  // namespace emulate

inline void __syncthreads() { emulate::wait(emulate::block, blockDim.x); }

namespace emulate {

// All threads of the warp must come here, and get what all of them show. It stays until all have read
// it: the next exchange uses the other place, and the one behind it waits for this.
template <typename T>
const Shown *exchange(const T &value) {
  static_assert(sizeof(T) <= sizeof(Shown), "too large to be shown");
  auto &place = shown[self().exchanges++ % 2];
  memcpy(&place[threadIdx.x], &value, sizeof(T));
  wait(warps[threadIdx.x / WARP], WARP);
  return &place[threadIdx.x / WARP * WARP];
}

template <typename T>
T of(const Shown &shown) {
  T value;
  memcpy(&value, &shown, sizeof(T));
  return value;
}

}  // namespace emulate

template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return emulate::of<T>(emulate::exchange(value)[threadIdx.x % emulate::WARP ^ mask]);
}

namespace emulate {

using Launch = std::function<void(void **)>;

// Kernels by name; their arguments are found as the driver finds them.
inline std::map<std::string, Launch> &kernels() {
  static std::map<std::string, Launch> all;
  return all;
}

template <typename... A, size_t... I>
void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
  kernel(*(std::remove_const_t<A> *)arguments[I]...);
}

struct Named {
  template <typename... A>
  Named(const char *name, void (*kernel)(A...)) {
    kernels()[name] = [=](void **arguments) { call(kernel, arguments, std::index_sequence_for<A...>{}); };
  }
};

}  // namespace emulate

// Runs a kernel with the arguments that these addresses have. Whether there is one of that name.
extern "C" bool emulate_launch(const char *name, unsigned x, unsigned y, unsigned z, unsigned of_block,
                               void **arguments) {
  const auto kernel = emulate::kernels().find(name);
  if (kernel == emulate::kernels().end()) return false;
  gridDim = {x, y, z};
  blockDim = {of_block, 1, 1};
  kernel->second(arguments);
  return true;
}

#define KERNEL(NAME, PARAMETERS, ARGUMENTS, BODY)                        \
  static void NAME PARAMETERS { emulate::run([=] { BODY ARGUMENTS; }); } \
  static const emulate::Named NAME##_named{#NAME, NAME};
