// Where the keys of a sequence are.

#pragma once

// Tokens of a page of the cache: model::kv_cache::BLOCK_TOKENS.
constexpr int PAGE = 128;

// A sequence in a launch: its first query among all, how many, its keys, the first of its pages in
// the table of pages. Without keys it is there to fill a batch.
struct Sequence {
  unsigned query, queries, keys, page;
};
