//! Keys and values of a sequence's tokens, in blocks.
//!
//! A block holds [`BLOCK_TOKENS`] consecutive tokens of all layers. Sequences append, fork (sharing
//! blocks until one of them writes), truncate and free; a layer sees the list of its blocks.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor, bail};

/// Tokens per block.
pub const BLOCK_TOKENS: usize = 128;

/// Keys and values of one layer in one block, each `[BLOCK_TOKENS, kv_heads, head_dim]`.
pub type LayerBlock = (Tensor, Tensor);

/// Keys and values of [`BLOCK_TOKENS`] tokens.
#[derive(Debug)]
struct Block {
    /// `[layers, 2, BLOCK_TOKENS, kv_heads, head_dim]`: one allocation, so that one address gives
    /// the keys of all layers.
    whole: Tensor,
    /// Views of `whole`, one for each layer.
    layers: Vec<LayerBlock>,
}

impl Block {
    fn new(whole: Tensor) -> Result<Self> {
        let part = |layer: usize, i: usize| whole.get(layer)?.get(i);
        let layers = 0..whole.dim(0)?;
        Ok(Self {
            layers: layers
                .map(|layer| Ok((part(layer, 0)?, part(layer, 1)?)))
                .collect::<Result<_>>()?,
            whole,
        })
    }
}

/// Allocates blocks of one model's shape, and reuses freed ones.
#[derive(Debug)]
pub struct KvPool {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    device: Device,
    state: Mutex<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    free: Vec<Block>,
    used: usize,
}

impl KvPool {
    /// An empty pool; blocks are allocated on first use.
    pub fn new(
        (layers, kv_heads, head_dim): (usize, usize, usize),
        dtype: DType,
        device: Device,
    ) -> Arc<Self> {
        let state = Mutex::default();
        Arc::new(Self {
            layers,
            kv_heads,
            head_dim,
            dtype,
            device,
            state,
        })
    }

    /// Number of blocks that sequences hold.
    pub fn used(&self) -> usize {
        self.lock().used
    }

    /// Device of the blocks.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Type of keys and values, which is the type of arithmetic.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Bytes per block.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * BLOCK_TOKENS * self.kv_heads * self.head_dim * self.dtype.size_in_bytes()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, PoolState> {
        // Every statement leaves the counters valid, so a poisoned lock is safe to use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allocate(&self) -> Result<Block> {
        let mut state = self.lock();
        state.used += 1;
        if let Some(block) = state.free.pop() {
            return Ok(block);
        }
        drop(state);
        let shape = (self.layers, 2, BLOCK_TOKENS, self.kv_heads, self.head_dim);
        let block = Tensor::zeros(shape, self.dtype, &self.device).and_then(Block::new);
        block.inspect_err(|_| self.lock().used -= 1)
    }

    fn free(&self, block: Block) {
        let mut state = self.lock();
        state.used -= 1;
        state.free.push(block);
    }
}

/// The KV cache of one sequence.
#[derive(Debug)]
pub struct KvCache {
    pool: Arc<KvPool>,
    blocks: Vec<Arc<Block>>,
    len: usize,
}

impl KvCache {
    /// An empty cache.
    pub fn new(pool: &Arc<KvPool>) -> Self {
        Self {
            pool: pool.clone(),
            blocks: Vec::new(),
            len: 0,
        }
    }

    /// Number of tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the cache has no tokens.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A second cache with the same tokens. It shares all blocks; [`KvCache::reserve`] copies a
    /// shared block before it is written to.
    pub fn fork(&self) -> Self {
        Self {
            pool: self.pool.clone(),
            blocks: self.blocks.clone(),
            len: self.len,
        }
    }

    /// Returns all blocks to the pool.
    pub fn free(&mut self) {
        self.len = 0;
        for block in self.blocks.drain(..) {
            if let Some(block) = Arc::into_inner(block) {
                self.pool.free(block);
            }
        }
    }

    /// Drops all but the first `len` tokens, and returns the blocks behind them to the pool.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        let kept = self.len.div_ceil(BLOCK_TOKENS);
        for block in self.blocks.drain(kept.min(self.blocks.len())..) {
            if let Some(block) = Arc::into_inner(block) {
                self.pool.free(block);
            }
        }
    }

    /// Allocates blocks for `tokens` more tokens, and copies a shared block that they are written
    /// to. Call it once before the layers write theirs.
    ///
    /// # Errors
    ///
    /// If the device has no memory left; the cache keeps its tokens then.
    pub fn reserve(&mut self, tokens: usize) -> Result<()> {
        let first = self.len / BLOCK_TOKENS;
        if let Some(shared) = self.blocks.get_mut(first)
            && Arc::get_mut(shared).is_none()
        {
            let own = self.pool.allocate()?;
            own.whole.slice_set(&shared.whole, 0, 0)?;
            let old = std::mem::replace(shared, Arc::new(own));
            if let Some(block) = Arc::into_inner(old) {
                self.pool.free(block);
            }
        }
        while self.blocks.len() * BLOCK_TOKENS < self.len + tokens {
            self.blocks.push(Arc::new(self.pool.allocate()?));
        }
        Ok(())
    }

    /// Writes one layer's keys and values `[tokens, kv_heads, head_dim]` behind the cached tokens,
    /// into reserved blocks. [`KvCache::advance`] adds them to the cache.
    ///
    /// # Errors
    ///
    /// If the blocks are not reserved or the shapes do not fit.
    pub fn write(&mut self, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let tokens = keys.dim(0)?;
        let mut done = 0;
        while done < tokens {
            let at = self.len + done;
            let Some(block) = self.blocks.get(at / BLOCK_TOKENS) else {
                bail!("KV cache: {tokens} tokens do not fit behind {}", self.len)
            };
            let start = at % BLOCK_TOKENS;
            let part = (BLOCK_TOKENS - start).min(tokens - done);
            let (block_keys, block_values) = &block.layers[layer];
            block_keys.slice_set(&keys.narrow(0, done, part)?, 0, start)?;
            block_values.slice_set(&values.narrow(0, done, part)?, 0, start)?;
            done += part;
        }
        Ok(())
    }

    /// Adds `tokens` that every layer has written to the cache.
    pub fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// One layer's blocks, in order.
    pub fn layer(&self, layer: usize) -> Vec<&LayerBlock> {
        self.blocks
            .iter()
            .map(|block| &block.layers[layer])
            .collect()
    }

    /// The blocks, in order, each `[layers, 2, BLOCK_TOKENS, kv_heads, head_dim]`: keys, then
    /// values.
    pub fn pages(&self) -> impl Iterator<Item = &Tensor> {
        self.blocks.iter().map(|block| &block.whole)
    }
}

impl Drop for KvCache {
    fn drop(&mut self) {
        self.free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(range: std::ops::Range<usize>) -> Tensor {
        let values: Vec<f32> = range
            .clone()
            .flat_map(|i| [i as f32, -(i as f32)])
            .collect();
        Tensor::from_vec(values, (range.len(), 1, 2), &Device::Cpu).unwrap()
    }

    fn append(cache: &mut KvCache, range: std::ops::Range<usize>) {
        cache.reserve(range.len()).unwrap();
        for layer in 0..2 {
            cache
                .write(layer, &rows(range.clone()), &rows(range.clone()))
                .unwrap();
        }
        cache.advance(range.len());
    }

    fn keys(cache: &KvCache) -> Vec<f32> {
        let parts: Vec<f32> = cache
            .layer(1)
            .iter()
            .flat_map(|(k, _)| k.flatten_all().unwrap().to_vec1::<f32>().unwrap())
            .collect();
        parts.into_iter().step_by(2).take(cache.len()).collect()
    }

    fn expect(ids: impl Iterator<Item = usize>) -> Vec<f32> {
        ids.map(|i| i as f32).collect()
    }

    #[test]
    fn appends_across_blocks_and_forks_by_copy_on_write() {
        let pool = KvPool::new((2, 1, 2), DType::F32, Device::Cpu);
        let mut a = KvCache::new(&pool);
        append(&mut a, 0..100);
        append(&mut a, 100..300);
        assert_eq!((a.len(), pool.used()), (300, 3));
        let mut b = a.fork();
        assert_eq!(pool.used(), 3);
        append(&mut b, 1000..1010);
        append(&mut a, 2000..2005);
        assert_eq!(pool.used(), 4);
        assert_eq!(keys(&a), expect((0..300).chain(2000..2005)));
        assert_eq!(keys(&b), expect((0..300).chain(1000..1010)));
        drop(a);
        assert_eq!(keys(&b), expect((0..300).chain(1000..1010)));
        drop(b);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn truncation_frees_blocks_and_harms_no_fork() {
        let pool = KvPool::new((2, 1, 2), DType::F32, Device::Cpu);
        let mut a = KvCache::new(&pool);
        append(&mut a, 0..300);
        let b = a.fork();
        a.truncate(400);
        assert_eq!((a.len(), pool.used()), (300, 3));
        a.truncate(130);
        append(&mut a, 1000..1010);
        assert_eq!(keys(&a), expect((0..130).chain(1000..1010)));
        assert_eq!(keys(&b), expect(0..300));
        // b has three blocks, the first shared with a, which has one of its own.
        assert_eq!(pool.used(), 4);
        drop(b);
        assert_eq!(pool.used(), 2);
        a.truncate(128);
        assert_eq!((a.len(), pool.used()), (128, 1));
        a.truncate(0);
        assert_eq!((a.is_empty(), pool.used()), (true, 0));
    }

    #[test]
    fn freed_blocks_are_used_again() {
        let pool = KvPool::new((2, 1, 2), DType::F32, Device::Cpu);
        for _ in 0..3 {
            let mut cache = KvCache::new(&pool);
            append(&mut cache, 0..129);
            assert_eq!(keys(&cache), expect(0..129));
        }
        assert_eq!((pool.used(), pool.lock().free.len()), (0, 2));
    }
}
