// Frames of up to kMaxColumns streams by the persistent kernel: see persistent_frames.h.
#pragma once

#include "persistent_attention.h"
#include "persistent_layers.h"
#include "persistent_slots.h"
