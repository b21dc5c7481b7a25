// The whole driver in one source.
#include "driver.cpp"
#include "candle.cpp"
#include "blas.cpp"
