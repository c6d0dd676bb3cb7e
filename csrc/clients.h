// Rows that belong to clients, on the CPU: the rows of client c are starts[c] … starts[c + 1] - 1.
#pragma once
#include <algorithm>

#include "common.h"

namespace pyfed {

// Whether the starts ascend from 0 to the number of rows; kernels look before they use them.
PYFED_HD bool starts_fit(const int64_t* starts, int64_t clients, int64_t rows) {
  bool fit = starts[0] == 0 && starts[clients] == rows;
  for (int64_t c = 0; c < clients; ++c) fit = fit && starts[c] <= starts[c + 1];
  return fit;
}

// Calls body(client, first, last) for every client's rows in [begin, end) that are not empty.
template <class Body>
PYFED_HD void over_clients(const int64_t* starts, int64_t clients, int64_t begin, int64_t end,
                           Body body) {
  const int64_t* after = std::upper_bound(starts, starts + clients, begin);
  for (int64_t c = after - starts - 1; c < clients && starts[c] < end; ++c) {
    const int64_t first = std::max(begin, starts[c]), last = std::min(end, starts[c + 1]);
    if (first < last) body(c, first, last);
  }
}

}  // namespace pyfed
