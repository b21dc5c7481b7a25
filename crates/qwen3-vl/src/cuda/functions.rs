//! The kernels of a device, loaded when it is opened.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::module::{get_function, load_data};
use candle_core::cuda_backend::cudarc::driver::sys::{CUfunction, CUmodule};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};
use candle_core::{Result, bail};

/// For compute capability 8.0; the driver compiles it for its device.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));
/// Machine code for compute capability 9.0, which saves that.
const CUBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.cubin"));
/// Names of the kernels, one a line.
const NAMES: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.txt"));

/// The kernels of one context. It does not keep the context alive: with that go all modules.
struct Functions {
    context: Weak<CudaContext>,
    by_name: HashMap<&'static str, Function>,
}

#[derive(Clone, Copy)]
struct Function(CUfunction);

// SAFETY: a handle that the driver takes on any thread, and that nothing here reads through.
unsafe impl Send for Function {}
// SAFETY: likewise.
unsafe impl Sync for Function {}

static LOADED: RwLock<Vec<Functions>> = RwLock::new(Vec::new());

/// Loads the kernels into a context, unless they are there.
///
/// # Errors
///
/// If the driver takes neither the machine code nor the PTX, or has no kernel of a name.
pub fn load(context: &Arc<CudaContext>) -> Result<()> {
    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    loaded.retain(|of| of.context.strong_count() > 0);
    if loaded.iter().any(|of| of.is_of(context)) {
        return Ok(());
    }
    context.bind_to_thread().w()?;
    let module = module(context)?;
    let mut by_name = HashMap::new();
    for name in NAMES.lines() {
        let symbol = CString::new(name).map_err(candle_core::Error::wrap)?;
        // SAFETY: the module has just been loaded.
        let function = unsafe { get_function(module, symbol) }.w()?;
        by_name.insert(name, Function(function));
    }
    loaded.push(Functions {
        context: Arc::downgrade(context),
        by_name,
    });
    Ok(())
}

/// A kernel of a context, which is loaded if it has not been.
///
/// # Errors
///
/// See [`load`]; if there is no kernel of that name.
pub fn find(context: &Arc<CudaContext>, name: &str) -> Result<CUfunction> {
    let known = || {
        let loaded = LOADED.read().unwrap_or_else(PoisonError::into_inner);
        let of_context = loaded.iter().find(|of| of.is_of(context))?;
        Some(of_context.by_name.get(name).copied())
    };
    let found = match known() {
        Some(found) => found,
        None => {
            load(context)?;
            known().flatten()
        }
    };
    match found {
        Some(Function(function)) => Ok(function),
        None => bail!("there is no kernel {name}"),
    }
}

impl Functions {
    fn is_of(&self, context: &Arc<CudaContext>) -> bool {
        // The address is not used again while there is a weak reference.
        std::ptr::eq(self.context.as_ptr(), Arc::as_ptr(context))
    }
}

/// The module with the kernels. It lives as long as the context.
fn module(context: &CudaContext) -> Result<CUmodule> {
    if context.compute_capability().w()? == (9, 0)
        && let Ok(module) = load_image(CUBIN.to_vec())
    {
        return Ok(module);
    }
    load_image(
        CString::new(PTX)
            .map_err(candle_core::Error::wrap)?
            .into_bytes_with_nul(),
    )
    .w()
}

#[allow(clippy::needless_pass_by_value)]
fn load_image(image: Vec<u8>) -> std::result::Result<CUmodule, DriverError> {
    // SAFETY: PTX that ends in 0, or a whole object file.
    unsafe { load_data(image.as_ptr().cast()) }
}
