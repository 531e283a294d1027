#pragma once
#include <stdexcept>

#define THROW_ON_NULLPTR(pointer) \
  if (!(pointer)) throw std::runtime_error(#pointer " is null");
