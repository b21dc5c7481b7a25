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
#include <functional>
#include <memory>
#include <vector>

#define __device__
#define __global__
#define __shared__ static

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
  unsigned shuffles = 0;
  bool over = false;
};

static ucontext_t scheduler;
static std::vector<Thread> threads;
static std::vector<Barrier> warps;
static std::vector<float> exchanged[2];
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
    thread.shuffles = 0;
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
  for (auto &values : exchanged) values.assign(blockDim.x, NAN);
  for (unsigned z = 0; z < gridDim.z; z++)
    for (unsigned y = 0; y < gridDim.y; y++)
      for (unsigned x = 0; x < gridDim.x; x++) {
        blockIdx = {x, y, z};
        run_block();
      }
}

}  // namespace emulate

inline void __syncthreads() { emulate::wait(emulate::block, blockDim.x); }

// All threads of the warp must come here. What one writes stays until all have read it: the next
// exchange uses the other place, and the one behind it waits for this.
inline float __shfl_xor_sync(unsigned, float value, int mask) {
  auto &place = emulate::exchanged[emulate::self().shuffles++ % 2];
  place[threadIdx.x] = value;
  emulate::wait(emulate::warps[threadIdx.x / emulate::WARP], emulate::WARP);
  return place[threadIdx.x ^ mask];
}

// The grid and the threads of a block for the next kernel.
extern "C" void launch_shape(unsigned x, unsigned y, unsigned z, unsigned of_block) {
  gridDim = {x, y, z};
  blockDim = {of_block, 1, 1};
}

#define KERNEL(NAME, PARAMETERS, ARGUMENTS, BODY) \
  extern "C" void NAME PARAMETERS { emulate::run([=] { BODY ARGUMENTS; }); }
