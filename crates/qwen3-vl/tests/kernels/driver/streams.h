// Streams, events and graphs of the emulated driver.

#pragma once

#include <deque>
#include <set>

namespace emulate {

using Work = std::function<void()>;

struct Stream;

inline std::set<Stream *> &streams() {
  static std::set<Stream *> all;
  return all;
}

// Recorded work of a stream, to be replayed.
struct Graph {
  std::vector<Work> work;
  std::vector<void *> memory;
  size_t kernels = 0;
  ~Graph() {
    for (void *at : memory) memset(at, 0xff, 1);
  }
};

// A point in the work of a stream.
struct Event {
  Stream *stream = nullptr;
  size_t number = 0;
  // Runs the stream's work up to this point.
  inline void reach() const;
  // Runs a little of the stream's work; true if it has reached this point.
  inline bool come_nearer() const;
};

struct Stream {
  const void *context;
  std::deque<Work> waiting;
  size_t told = 0, done = 0;
  std::unique_ptr<Graph> graph;
  bool spoilt = false;

  explicit Stream(const void *of) : context(of) { streams().insert(this); }
  ~Stream() { streams().erase(this); }

  void add(Work work) {
    if (graph) {
      graph->work.push_back(std::move(work));
      return;
    }
    waiting.push_back(std::move(work));
    told++;
  }
  void do_until(size_t number) {
    while (done < number && !waiting.empty()) {
      const Work work = std::move(waiting.front());
      waiting.pop_front();
      done++;
      work();
    }
  }
  void drain() { do_until(told); }
  Event now() { return {this, told}; }

  // Work that cannot be recorded spoils a recording.
  bool refuses() { return spoilt |= graph != nullptr, graph != nullptr; }
  bool is_spoilt() const { return graph && spoilt; }
  Graph *recording() { return graph.get(); }
  bool begin_recording() {
    if (graph) return false;
    spoilt = false;
    graph = std::make_unique<Graph>();
    return true;
  }
  Graph *end_recording() {
    if (spoilt) graph.reset();
    return graph.release();
  }
};

inline void Event::reach() const {
  if (stream && streams().count(stream)) stream->do_until(number);
}

inline bool Event::come_nearer() const {
  if (!stream || !streams().count(stream)) return true;
  stream->do_until(std::min(number, stream->done + 50));
  return stream->done >= number;
}

// With EMULATED_STREAMS=getting-on: one time in four, a stream runs some of its work.
inline void get_on() {
  static const bool may = getenv("EMULATED_STREAMS") && !strcmp(getenv("EMULATED_STREAMS"), "getting-on");
  if (!may) return;
  static unsigned state = 1;
  const auto chance = [](unsigned of) {
    state = state * 1664525 + 1013904223;
    return (state >> 16) % of;
  };
  if (streams().empty() || chance(4)) return;
  auto stream = streams().begin();
  std::advance(stream, chance(streams().size()));
  (*stream)->do_until((*stream)->done + chance(64));
}

}  // namespace emulate
