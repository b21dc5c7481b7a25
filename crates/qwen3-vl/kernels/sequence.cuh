// The queries and keys of a sequence in a launch.

#pragma once

// Tokens per page (KV block): model::kv_cache::BLOCK_TOKENS.
constexpr int PAGE = 128;

// A sequence in a launch: index of its first query among all, number of queries, number of keys,
// index of its first page in the table of pages. A padding row has no keys.
struct Sequence {
  unsigned query, queries, keys, page;
};
