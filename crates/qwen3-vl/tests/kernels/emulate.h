// Runs CUDA kernels on the CPU, to test their results without a GPU: one thread block after the
// other, each thread a fiber that yields where threads wait for each other. It does not model
// memory hierarchies, speed or races between blocks.

#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
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

// A barrier for `count` threads.
struct Barrier {
  unsigned arrived = 0, passed = 0;
};

struct Thread {
  std::unique_ptr<char[]> stack{new char[STACK]};
  bool begun = false;
  jmp_buf there;
  unsigned exchanges = 0;
  bool over = false;
  std::vector<std::pair<void *, const void *>> copies;
};

static jmp_buf scheduler;
static std::deque<Thread> threads;  // they stay where they are
static std::vector<Barrier> warps;
// Values that a thread shares with its warp: at most those of a product.
struct Shown {
  unsigned words[6];
};
static std::vector<Shown> shown[2];
static Barrier block;
static const std::function<void()> *body;

inline Thread &self() { return threads[threadIdx.x]; }

// Jumps between stacks are many times faster than `swapcontext`, which makes a system call.
inline void give_way() {
  if (_setjmp(self().there) == 0) _longjmp(scheduler, 1);
}

inline void wait(Barrier &barrier, unsigned count) {
  const unsigned before = barrier.passed;
  if (++barrier.arrived == count) {
    barrier.arrived = 0;
    barrier.passed++;
  }
  while (barrier.passed == before) give_way();
}

// A fiber runs its thread of each block in turn.
inline void begin() {
  for (;;) {
    (*body)();
    self().over = true;
    give_way();
  }
}

inline void go_on(Thread &thread) {
  if (_setjmp(scheduler)) return;
  if (thread.begun) _longjmp(thread.there, 1);
  thread.begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = thread.stack.get();
  context.uc_stack.ss_size = STACK;
  makecontext(&context, begin, 0);
  setcontext(&context);
}

// Bound on a block whose threads wait for one that never arrives.
constexpr unsigned LONGEST = 10'000'000;

inline void run_block() {
  for (unsigned i = 0; i < blockDim.x; i++) {
    threads[i].exchanges = 0;
    threads[i].over = false;
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
      go_on(threads[i]);
    }
  }
}

inline void run(const std::function<void()> &kernel) {
  body = &kernel;
  if (threads.size() < blockDim.x) threads.resize(blockDim.x);
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

// Exchanges values between all threads of a warp; all must call it. The values stay until all have
// read them: the next exchange uses the other buffer, and the one after it waits for this one.
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

// Reads the arguments at the driver's addresses; the result runs the kernel with them later.
using Bind = std::function<std::function<void()>(void **)>;

// Kernels by name.
inline std::map<std::string, Bind> &kernels() {
  static std::map<std::string, Bind> all;
  return all;
}

template <typename... A, size_t... I>
std::function<void()> take(void (*kernel)(A...), void **from, std::index_sequence<I...>) {
  return [=, taken = std::make_tuple(*(std::remove_const_t<A> *)from[I]...)] { std::apply(kernel, taken); };
}

struct Named {
  template <typename... A>
  Named(const char *name, void (*kernel)(A...)) {
    kernels()[name] = [=](void **from) { return take(kernel, from, std::index_sequence_for<A...>{}); };
  }
};

}  // namespace emulate

// Runs a kernel with the arguments at these addresses; false if no kernel has the name.
extern "C" bool emulate_launch(const char *name, unsigned x, unsigned y, unsigned z, unsigned of_block,
                               void **arguments) {
  const auto kernel = emulate::kernels().find(name);
  if (kernel == emulate::kernels().end()) return false;
  gridDim = {x, y, z};
  blockDim = {of_block, 1, 1};
  kernel->second(arguments)();
  return true;
}

#define KERNEL(NAME, PARAMETERS, ARGUMENTS, BODY)                            \
  static void NAME PARAMETERS { emulate::run([=] { BODY ARGUMENTS; }); }     \
  static const emulate::Named NAME##_named{#NAME, NAME};
