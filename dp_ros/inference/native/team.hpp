// What networks in compiled code run on: threads that work on one call together, and memory for weights.

#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

namespace {

// Threads wait here for one another: awake for so many turns, a convolution takes some thousand, then giving way.
class Barrier {
 public:
  Barrier(int members, int turns) : members_(members), turns_(turns) {}
  void wait() {
    if (members_ == 1) return;
    const unsigned round = round_.load(std::memory_order_relaxed);
    if (here_.fetch_add(1, std::memory_order_acq_rel) + 1 == members_) {
      here_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int turn = 0; round_.load(std::memory_order_acquire) == round; ++turn) {
      if (turn > turns_) sched_yield();
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  }

 private:
  const int members_, turns_;
  std::atomic<int> here_{0};
  std::atomic<unsigned> round_{0};
};

// Weights, in pages of 2 MB where the system has them: a large network is read from memory at every step, and looking up
// pages of 4 KB costs up to half of the bandwidth.
template <class T>
class Weights {
 public:
  Weights(const T *values, int64_t n) : bytes_((std::max<int64_t>(n, 1) * sizeof(T) + PAGE - 1) / PAGE * PAGE) {
    void *memory = mmap(nullptr, bytes_ + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mapped_ = memory;
    values_ = reinterpret_cast<T *>((reinterpret_cast<uintptr_t>(memory) + PAGE - 1) / PAGE * PAGE);
#if defined(MADV_HUGEPAGE)
    madvise(values_, bytes_, MADV_HUGEPAGE);  // a wish: what is refused is slower and nothing else
#endif
    std::copy(values, values + n, values_);
  }
  ~Weights() { munmap(mapped_, bytes_ + PAGE); }
  Weights(const Weights &) = delete;
  Weights &operator=(const Weights &) = delete;
  const T &operator[](int64_t i) const { return values_[i]; }

 private:
  static constexpr int64_t PAGE = int64_t(2) << 20;
  const int64_t bytes_;
  void *mapped_;
  T *values_;
};

// Threads that do a piece of work together, the calling one with them. They sleep between calls.
class Team {
 public:
  // `work` is called in each with its number, from 0. Throws where there is no thread to be had.
  Team(int members, int turns, std::function<void(int)> work) : work_(std::move(work)), barrier_(members, turns) {
    if (sched_getaffinity(0, sizeof allowed_, &allowed_)) CPU_ZERO(&allowed_);
    try {
      for (int i = 1; i < members; ++i) others_.emplace_back([this, i] { wait_and_work(i); });
    } catch (...) {
      end();
      throw;
    }
  }

  ~Team() { end(); }

  Team(const Team &) = delete;
  Team &operator=(const Team &) = delete;

  // Until all of them have done it. One call at a time.
  void run() {
    stay_away_from(sched_getcpu());
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++job_;
    }
    wake_.notify_all();
    work_(0);
    barrier_.wait();
  }

  void wait_for_one_another() { barrier_.wait(); }

 private:
  void end() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ending_ = true;
    }
    wake_.notify_all();
    for (auto &other : others_) other.join();
  }

  // The others get any core but that of the calling thread. A kernel that wakes a thread likes to put it beside the one
  // that woke it, in a virtual machine even where another core sleeps, and there it would wait for milliseconds.
  void stay_away_from(int core) {
    if (core == core_ || others_.empty() || core < 0) return;
    core_ = core;
    cpu_set_t left = allowed_;
    CPU_CLR(core, &left);
    if (CPU_COUNT(&left) == 0) return;
    for (auto &other : others_) pthread_setaffinity_np(other.native_handle(), sizeof left, &left);
  }

  void wait_and_work(int member) {
    for (uint64_t done = 0;;) {
      {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [&] { return ending_ || job_ != done; });
        if (ending_) return;
        done = job_;
      }
      work_(member);
      barrier_.wait();
    }
  }

  const std::function<void(int)> work_;
  cpu_set_t allowed_{};
  int core_ = -1;
  Barrier barrier_;
  std::mutex mutex_;
  std::condition_variable wake_;
  uint64_t job_ = 0;
  bool ending_ = false;
  std::vector<std::thread> others_;  // last: they need the rest
};

}  // namespace
