"""Weight formats. Each is a class with `pack` (a matrix by formula, as the public tool packs it: tensors
by the last part of their name), `unpack` (the matrix as the tool reads it, f32 [out, in]) and `config`
(what its publishers write as quantization_config)."""
