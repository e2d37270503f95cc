// Masks that a compiled function waits for: what comes before it runs while the host still works
// them out. Deliberately knows neither what makes a mask nor what it is applied to.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace flaxen {
namespace {

struct Mask {
  bool is_published = false;
  std::vector<uint32_t> words;
};

// Those of the whole process. Each ticket is given out once, so that no engine gets another's mask.
struct Masks {
  std::mutex mutex;
  std::condition_variable changed;
  std::unordered_map<uint32_t, Mask> of_ticket;
  uint32_t last_ticket = 0;
};

// Never destroyed: at exit XLA's threads may still wait.
Masks& masks() {
  static Masks& all = *new Masks;
  return all;
}

// Waits until a mask is published, and copies it. What it does not say is allowed: all of it, once
// the ticket is closed. The second operand is only what has to be computed before.
ffi::Error awaited_mask(ffi::Buffer<ffi::U32> ticket, ffi::AnyBuffer,
                        ffi::Result<ffi::Buffer<ffi::U32>> out, float timeout_s) {
  Masks& all = masks();
  const uint32_t number = *ticket.typed_data();
  std::unique_lock<std::mutex> lock(all.mutex);
  auto found = all.of_ticket.end();
  const bool is_over = all.changed.wait_for(lock, std::chrono::duration<float>(timeout_s), [&] {
    found = all.of_ticket.find(number);
    return found == all.of_ticket.end() || found->second.is_published;
  });
  if (!is_over)
    return ffi::Error(ffi::ErrorCode::kDeadlineExceeded,
                      "the tokens that a step's grammars allow did not come in " +
                          std::to_string(static_cast<int>(timeout_s)) +
                          " s: the thread that runs the steps is held up, or waits for something "
                          "that JAX computes after this step. A grammar must not compute with JAX");
  uint32_t* to = out->typed_data();
  size_t num_words = 0;
  if (found != all.of_ticket.end()) {
    const std::vector<uint32_t>& words = found->second.words;
    num_words = std::min(words.size(), out->element_count());
    std::copy_n(words.data(), num_words, to);
  }
  std::fill(to + num_words, to + out->element_count(), ~uint32_t{0});
  return ffi::Error::Success();
}

}  // namespace
}  // namespace flaxen

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(flaxen_awaited_mask, flaxen::awaited_mask,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::U32>>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::Buffer<ffi::U32>>()
                                  .Attr<float>("timeout_s"));

extern "C" {

// Returns a new ticket; its mask is waited for.
uint32_t flaxen_open_mask() {
  flaxen::Masks& all = flaxen::masks();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.of_ticket.emplace(++all.last_ticket, flaxen::Mask{});
  return all.last_ticket;
}

// Gives a ticket its mask, which is copied; nothing if it is closed.
void flaxen_publish_mask(uint32_t ticket, const uint32_t* words, int64_t num_words) {
  flaxen::Masks& all = flaxen::masks();
  std::lock_guard<std::mutex> lock(all.mutex);
  const auto found = all.of_ticket.find(ticket);
  if (found == all.of_ticket.end()) return;
  found->second = {true, {words, words + num_words}};
  all.changed.notify_all();
}

// Forgets a ticket: whoever waits for its mask, or will, is let through. It may be closed already.
void flaxen_close_mask(uint32_t ticket) {
  flaxen::Masks& all = flaxen::masks();
  std::lock_guard<std::mutex> lock(all.mutex);
  all.of_ticket.erase(ticket);
  all.changed.notify_all();
}

}  // extern "C"

#pragma GCC visibility pop
