//! Windows of frames: which frames are sampled, which window they belong to, when it closes.
//! No tensors, no clock: time is a parameter.
