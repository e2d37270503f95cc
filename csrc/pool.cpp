#include "pool.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <climits>
#include <cstdlib>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

namespace flaxen {
namespace {

// About 50 us: longer than the time between two kernels of a step, short compared with a step.
constexpr int kSpins = 2000;

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// The vector unit's rounding mode and flush-to-zero flags, which XLA sets in its own threads. A
// worker adopts its caller's, otherwise results would depend on the thread that runs a task.
inline uint32_t float_mode() {
#if defined(__x86_64__)
  return __builtin_ia32_stmxcsr() & ~0x3fu;  // without the exception flags
#elif defined(__aarch64__)
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return static_cast<uint32_t>(mode);
#else
  return 0;
#endif
}
inline void set_float_mode([[maybe_unused]] uint32_t mode) {
#if defined(__x86_64__)
  __builtin_ia32_ldmxcsr(mode);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" : : "r"(static_cast<uint64_t>(mode)));
#endif
}

// The ticket holds the job's number in its upper half and the next task in the lower: a late thread
// can't take a task of a job that it has not read.
constexpr uint64_t kTaskBits = 32;
constexpr uint64_t kTaskMask = (uint64_t{1} << kTaskBits) - 1;

class Pool {
 public:
  ~Pool() { stop(); }

  void start(int num_threads) {
    std::lock_guard<std::mutex> lock(busy_);
    stop();
    stopping_ = false;
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
  }

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  void run(int64_t num_tasks, void (*body)(const void*, int64_t), const void* context) {
    std::unique_lock<std::mutex> lock(busy_, std::defer_lock);
    if (num_tasks <= 1 || workers_.empty() || !lock.try_lock()) {
      for (int64_t task = 0; task < num_tasks; ++task) body(context, task);
      return;
    }
    const uint64_t job = (ticket_.load(std::memory_order_relaxed) >> kTaskBits) + 1;
    ticket_.store(job << kTaskBits | kTaskMask, std::memory_order_relaxed);  // no task is available
    std::atomic_thread_fence(std::memory_order_release);
    body_.store(body, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    num_tasks_.store(static_cast<uint64_t>(num_tasks), std::memory_order_relaxed);
    float_mode_.store(float_mode(), std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
    ticket_.store(job << kTaskBits, std::memory_order_seq_cst);
    if (num_asleep_.load(std::memory_order_seq_cst) > 0) wake();
    take_tasks();
    for (int spins = 0; done_.load(std::memory_order_acquire) != num_tasks;) {
      if (++spins < kSpins) pause();
      else std::this_thread::yield();
    }
  }

 private:
  // Runs tasks of the present job until none is left.
  void take_tasks() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    for (;;) {
      const auto body = body_.load(std::memory_order_relaxed);
      const void* context = context_.load(std::memory_order_relaxed);
      const uint32_t float_mode = float_mode_.load(std::memory_order_relaxed);
      const uint64_t task = ticket & kTaskMask;
      if (task >= num_tasks_.load(std::memory_order_relaxed)) return;
      // Fails if the job has changed since: the values read above are then stale.
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
      set_float_mode(float_mode);
      body(context, static_cast<int64_t>(task));
      done_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void work() {
    uint64_t seen = 0;
    for (;;) {
      for (int spins = 0; job() == seen && spins < kSpins; ++spins) pause();
      while (job() == seen) {
        num_asleep_.fetch_add(1, std::memory_order_seq_cst);
        const int before = wakes_.load(std::memory_order_seq_cst);
        if (job() == seen && !stopping_) futex(FUTEX_WAIT_PRIVATE, before);
        num_asleep_.fetch_sub(1, std::memory_order_seq_cst);
        if (stopping_) return;
      }
      if (stopping_) return;
      seen = job();
      take_tasks();
    }
  }

  uint64_t job() const { return ticket_.load(std::memory_order_seq_cst) >> kTaskBits; }

  void wake() {
    wakes_.fetch_add(1, std::memory_order_seq_cst);
    futex(FUTEX_WAKE_PRIVATE, INT_MAX);
  }

  void futex(int operation, int value) {
    syscall(SYS_futex, reinterpret_cast<int*>(&wakes_), operation, value, nullptr, nullptr, 0);
  }

  void stop() {
    stopping_ = true;
    ticket_.fetch_add(uint64_t{1} << kTaskBits | 0);  // a job without tasks ends the spinning
    wake();
    for (auto& worker : workers_) worker.join();
    workers_.clear();
  }

  alignas(64) std::atomic<uint64_t> ticket_{kTaskMask};
  std::atomic<void (*)(const void*, int64_t)> body_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<uint64_t> num_tasks_{0};
  std::atomic<uint32_t> float_mode_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> wakes_{0};
  std::atomic<int> num_asleep_{0};
  std::atomic<bool> stopping_{false};
  std::mutex busy_;
  std::vector<std::thread> workers_;
};

// Never destroyed: at exit XLA's threads may still be inside a kernel.
Pool& pool() {
  static Pool& the_pool = *new Pool;
  return the_pool;
}

struct Buffer {
  void* data = nullptr;
  size_t size = 0;
  ~Buffer() { std::free(data); }
};

}  // namespace

void set_num_threads(int num_threads) { pool().start(num_threads); }
int num_threads() { return pool().size(); }

void run_tasks(int64_t num_tasks, void (*body)(const void*, int64_t), const void* context) {
  pool().run(num_tasks, body, context);
}

void* scratch(Slot slot, size_t num_bytes) {
  thread_local Buffer buffers[static_cast<int>(Slot::num_slots)];
  Buffer& buffer = buffers[static_cast<int>(slot)];
  if (buffer.size < num_bytes) {
    std::free(buffer.data);
    buffer.size = (num_bytes + (size_t{1} << 16) - 1) >> 16 << 16;
    buffer.data = std::aligned_alloc(4096, buffer.size);
    if (buffer.data == nullptr) throw std::bad_alloc();
  }
  return buffer.data;
}

}  // namespace flaxen
