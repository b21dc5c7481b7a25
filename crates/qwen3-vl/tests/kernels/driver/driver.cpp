// Emulates a CUDA driver on the CPU, to test code that calls the driver without a GPU. It has the
// calls of cudarc and candle, and runs kernels by `emulate.h`.
//
// A stream runs its work only when it is waited for; with EMULATED_STREAMS=getting-on, streams also
// run some work at random times. So work that no event or stream orders runs out of order, a copy
// reads memory late, and memory that is freed too soon has other content.
//
// Faults of a GPU are emulated on demand:
//   EMULATED_FAIL_KERNEL=NAME         the kernel makes an illegal access: every later call fails
//   EMULATED_FAIL_CAPTURE=launch      the fourth kernel spoils the recording; later calls fail
//   EMULATED_FAIL_CAPTURE=instantiate a recording does not become a graph that runs
//   EMULATED_CAPABILITY=90            compute capability, by default 80: machine code loads
//                                     only for 9.0

#include <mutex>

#include "../../../kernels/kernels.cu"
#include "streams.h"

#define API extern "C" __attribute__((visibility("default")))

enum : int {
  OK = 0,
  INVALID = 1,
  NO_DEVICE = 101,
  NO_CONTEXT = 201,
  FOREIGN = 400,
  NOT_FOUND = 500,
  NO_IMAGE = 200,
  NO_BINARY = 209,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  CAPTURING = 900,
  SPOILT = 901
};

// Whether the environment variable has this value.
static bool demanded(const char *name, const std::string &value) {
  const char *is = getenv(name);
  return is && is == value;
}
static int capability() {
  const char *is = getenv("EMULATED_CAPABILITY");
  return is ? atoi(is) : 80;
}

// The fault of a kernel, which every later call returns.
static int fault = OK;
#define SOUND \
  if (fault) return fault

using emulate::Event;
using emulate::Graph;
using emulate::Stream;
using emulate::Work;

static std::recursive_mutex one_at_a_time;
#define ALONE                                                        \
  const std::lock_guard<std::recursive_mutex> alone(one_at_a_time); \
  emulate::get_on()

// Devices, which share memory here, and their contexts.
constexpr int DEVICES = 2;
static char contexts[DEVICES];
static thread_local void *current = nullptr;
// Refuses a stream of another device than the thread's current one.
#define NOT_OF_ANOTHER(STREAM) \
  if ((STREAM)->context != current) return FOREIGN
API int cuInit(unsigned) { return OK; }
API int cuDeviceGet(int *device, int ordinal) {
  return *device = ordinal, 0 <= ordinal && ordinal < DEVICES ? OK : NO_DEVICE;
}
API int cuDeviceGetAttribute(int *value, int attribute, int) {
  enum { MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, POOLS = 115 };
  *value = attribute == MAJOR             ? capability() / 10
           : attribute == MINOR           ? capability() % 10
           : attribute == MULTIPROCESSORS ? 4
                                          : attribute == POOLS;
  return OK;
}
API int cuDevicePrimaryCtxRetain(void **of, int device) { return *of = &contexts[device], OK; }
API int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
API int cuCtxGetCurrent(void **of) { return *of = current, OK; }
API int cuCtxSetCurrent(void *of) { return current = of, OK; }
API int cuCtxDestroy_v2(void *) { return OK; }
API int cuMemGetInfo_v2(size_t *free, size_t *total) { return *free = *total = (size_t)2 << 30, OK; }
API int cuGetErrorString(int, const char **text) { return *text = "the emulated driver refused", OK; }
API int cuCtxSynchronize() {
  ALONE;
  for (Stream *stream : emulate::streams()) stream->drain();
  return fault;
}

// Streams and events.
API int cuStreamCreate(Stream **stream, unsigned) {
  ALONE;
  if (!current) return NO_CONTEXT;
  return *stream = new Stream(current), OK;
}
API int cuStreamDestroy_v2(Stream *stream) { ALONE; stream->drain(); delete stream; return OK; }
API int cuStreamSynchronize(Stream *stream) {
  ALONE;
  if (stream->refuses()) return CAPTURING;
  return stream->drain(), fault;
}
API int cuEventCreate(Event **event, unsigned) { return *event = new Event, OK; }
API int cuEventDestroy_v2(Event *event) { delete event; return OK; }
API int cuEventRecord(Event *event, Stream *stream) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  if (stream->refuses()) return CAPTURING;
  *event = stream->now();
  return OK;
}
API int cuEventSynchronize(Event *event) { ALONE; event->reach(); return fault; }
// Each query makes the stream run a little further.
API int cuEventQuery(Event *event) {
  ALONE;
  const bool there = event->come_nearer();
  SOUND;
  return there ? OK : NOT_READY;
}
// There is no clock: each piece of work counts as a microsecond.
API int cuEventElapsedTime_v2(float *milliseconds, Event *from, Event *to) {
  ALONE;
  SOUND;
  if (from->stream != to->stream) return INVALID;
  return *milliseconds = 1e-3f * (to->number - from->number), OK;
}
API int cuEventElapsedTime(float *milliseconds, Event *from, Event *to) {
  return cuEventElapsedTime_v2(milliseconds, from, to);
}
API int cuStreamWaitEvent(Stream *stream, Event *event, unsigned) {
  ALONE;
  if (stream->refuses()) return CAPTURING;
  const Event moment = *event;
  stream->add([moment] { moment.reach(); });
  return OK;
}

// Memory. Memory is NaN before it is written and after it is freed.
static void spoil(void *at, size_t bytes) { memset(at, 0xff, bytes); }
static std::map<void *, size_t> sizes;
API int cuMemAllocAsync(void **at, size_t bytes, Stream *stream) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  SOUND;
  if (stream->is_spoilt()) return SPOILT;
  if (bytes == 0) return INVALID;
  *at = malloc(bytes + 64);
  sizes[*at] = bytes;
  spoil(*at, bytes);
  // A replayed step finds nothing of its last run.
  if (Graph *graph = stream->recording()) graph->work.push_back([at = *at, bytes] { spoil(at, bytes); });
  return OK;
}
API int cuMemFreeAsync(void *at, Stream *stream) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  SOUND;
  // Memory that a spoilt recording allocated is freed with it.
  if (stream->is_spoilt()) return SPOILT;
  const auto of = sizes.find(at);
  if (of == sizes.end()) return INVALID;
  const size_t bytes = of->second;
  if (Graph *graph = stream->recording()) {
    graph->memory.push_back(at);
    graph->work.push_back([=] { spoil(at, bytes); });
  } else {
    // Never reused, so that a use after the free is noticed.
    stream->add([=] { spoil(at, bytes); });
  }
  sizes.erase(of);
  return OK;
}
static char pool;
API int cuDeviceGetDefaultMemPool(void **of, int) { return *of = &pool, OK; }
API int cuMemPoolSetAttribute(void *of, int attribute, void *) {
  enum { INTERNAL_DEPENDENCIES = 3, RELEASE_THRESHOLD = 4 };
  return of == &pool && (attribute == INTERNAL_DEPENDENCIES || attribute == RELEASE_THRESHOLD) ? OK : INVALID;
}
API int cuMemPoolTrimTo(void *, size_t) { return OK; }
API int cuMemAlloc_v2(void **at, size_t bytes) { return *at = malloc(bytes + 64), OK; }
API int cuMemFree_v2(void *at) { return free(at), OK; }
static std::map<void *, size_t> pinned;
API int cuMemHostAlloc(void **at, size_t bytes, unsigned) {
  ALONE;
  *at = malloc(bytes);
  pinned[*at] = bytes;
  return OK;
}
API int cuMemFreeHost(void *at) {
  ALONE;
  spoil(at, pinned[at]);
  pinned.erase(at);
  return OK;
}
static bool is_pinned(const void *at) {
  auto next = pinned.upper_bound((void *)at);
  if (next == pinned.begin()) return false;
  --next;
  return at < (char *)next->first + next->second;
}
API int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, Stream *stream) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  if (is_pinned(from)) {
    // The device reads it when the stream gets there.
    return stream->add([=] { memcpy(to, from, bytes); }), OK;
  }
  if (stream->refuses()) return CAPTURING;
  const std::vector<char> copy((const char *)from, (const char *)from + bytes);
  stream->add([=] { memcpy(to, copy.data(), bytes); });
  return OK;
}
API int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, Stream *stream) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  if (stream->refuses()) return CAPTURING;
  stream->add([=] { memcpy(to, from, bytes); });
  // A copy to memory that is not pinned is made at once.
  if (!is_pinned(to)) stream->drain();
  return fault;
}
API int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, Stream *stream) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  return stream->add([=] { memcpy(to, from, bytes); }), OK;
}
API int cuMemcpyPeerAsync(void *to, void *, const void *from, void *, size_t bytes, Stream *stream) {
  return cuMemcpyDtoDAsync_v2(to, from, bytes, stream);
}
API int cuMemsetD8Async(void *at, unsigned char value, size_t bytes, Stream *stream) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  return stream->add([=] { memset(at, value, bytes); }), OK;
}

// Kernels.
static char module;
API int cuModuleLoadData(void **of, const void *image) {
  const bool is_code = !memcmp(image, "\177ELF", 4);
  // candle's modules are PTX as well.
  if (is_code && capability() != 90) return NO_BINARY;
  if (!is_code && strncmp((const char *)image, "//", 2)) return NO_IMAGE;
  if (getenv("EMULATED_SAY_IMAGES")) fprintf(stderr, "image: %s\n", is_code ? "code" : "PTX");
  return *of = &module, OK;
}
API int cuModuleLoad(void **of, const char *) { return *of = &module, OK; }
API int cuModuleUnload(void *) { return OK; }
struct Function {
  const emulate::Bind *bind;
  bool fails;
};
API int cuModuleGetFunction(const Function **function, void *, const char *name) {
  static std::map<std::string, Function> known;
  ALONE;
  const auto kernel = emulate::kernels().find(name);
  if (kernel == emulate::kernels().end()) {
    fprintf(stderr, "the emulated driver has no kernel %s\n", name);
    return NOT_FOUND;
  }
  Function &of = known[name];
  of = {&kernel->second, demanded("EMULATED_FAIL_KERNEL", name)};
  return *function = &of, OK;
}
API int cuLaunchKernel(const Function *function, unsigned x, unsigned y, unsigned z, unsigned of_x,
                       unsigned of_y, unsigned of_z, unsigned, Stream *stream, void **arguments, void **) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  if (x * y * z == 0 || of_x * of_y * of_z == 0 || of_x * of_y * of_z > 1024) return INVALID;
  SOUND;
  // Not the first kernel, so that memory allocated before is freed in a spoilt recording.
  if (Graph *graph = stream->recording(); graph && ++graph->kernels == 4)
    if (demanded("EMULATED_FAIL_CAPTURE", "launch")) stream->refuses();
  if (stream->is_spoilt()) return SPOILT;
  const auto run = (*function->bind)(arguments);
  const bool fails = function->fails;
  stream->add([=] {
    if (fault) return;
    if (fails) {
      fault = ILLEGAL_ADDRESS;
      return;
    }
    gridDim = {x, y, z};
    blockDim = {of_x, 1, 1};
    run();
  });
  return OK;
}

API int cuLaunchHostFunc(Stream *stream, void (*function)(void *), void *data) {
  ALONE;
  NOT_OF_ANOTHER(stream);
  return stream->add([=] { function(data); }), OK;
}

// Graphs.
API int cuStreamBeginCapture_v2(Stream *stream, int) {
  ALONE;
  return stream->begin_recording() ? OK : CAPTURING;
}
API int cuStreamIsCapturing(Stream *stream, int *status) {
  ALONE;
  enum { NONE = 0, ACTIVE = 1, INVALIDATED = 2 };
  return *status = !stream->recording() ? NONE : stream->is_spoilt() ? INVALIDATED : ACTIVE, OK;
}
API int cuStreamEndCapture(Stream *stream, Graph **graph) {
  ALONE;
  *graph = stream->end_recording();
  return *graph ? OK : SPOILT;
}
API int cuGraphInstantiateWithFlags(Graph **runs, Graph *graph, unsigned long long) {
  if (demanded("EMULATED_FAIL_CAPTURE", "instantiate")) return INVALID;
  return *runs = graph, OK;
}
API int cuGraphLaunch(Graph *graph, Stream *stream) {
  ALONE;
  SOUND;
  for (const Work &work : graph->work) stream->add(work);
  return OK;
}
API int cuGraphExecDestroy(Graph *) { return OK; }
API int cuGraphDestroy(Graph *graph) {
  ALONE;
  for (Stream *stream : emulate::streams()) stream->drain();
  delete graph;
  return OK;
}
