// The whole driver.
#include "driver.cpp"
#include "candle.cpp"
#include "blas.cpp"
