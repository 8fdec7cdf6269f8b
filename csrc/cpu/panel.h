// Columns of a packed weight panel, and lanes of the vector type that the kernels are written in.
#pragma once

namespace uniaudio {

constexpr int kPanel = 16;

}  // namespace uniaudio
