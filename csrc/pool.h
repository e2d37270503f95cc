// One pool of threads for all kernels of the process. Deliberately knows nothing of what runs in it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace flaxen {

// Sets how many threads take part in a call, the caller's own included. Not while a kernel runs.
void set_num_threads(int num_threads);
int num_threads();

// Calls body(context, task) for every task from 0 to num_tasks - 1, each once, and returns when all
// are done. Tasks are handed out one by one, so that a thread that loses its core delays only one.
// A caller that finds the pool busy runs all its tasks itself: so a task's result must not depend
// on the thread that runs it.
void run_tasks(int64_t num_tasks, void (*body)(const void* context, int64_t task),
               const void* context);

template <class Body>
void parallel_for(int64_t num_tasks, const Body& body) {
  run_tasks(
      num_tasks,
      [](const void* context, int64_t task) { (*static_cast<const Body*>(context))(task); }, &body);
}

// Scratch memory of the calling thread, 64-byte aligned and kept for its next call; `slot` numbers
// the blocks that one kernel uses at the same time. The contents are undefined.
enum class Slot {
  activations, tile_inputs, sums, tile, rows, scores, pages, batch, adapters, values, blocks,
  expert_order, expert_rows, expert_hidden, expert_outputs, num_slots
};
void* scratch(Slot slot, size_t num_bytes);

}  // namespace flaxen
