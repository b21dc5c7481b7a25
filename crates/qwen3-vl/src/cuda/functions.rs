//! The kernels of a device, loaded when it is opened.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::result::module::{get_function, load_data};
use candle_core::cuda_backend::cudarc::driver::sys::{CUfunction, CUmodule};
use candle_core::cuda_backend::cudarc::driver::{CudaContext, DriverError};
use candle_core::{Result, bail};

/// PTX for compute capability 8.0, which the driver compiles for its device.
const PTX: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.ptx"));
/// Machine code for compute capability 9.0, which needs no compilation.
const CUBIN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.cubin"));
/// Names of the kernels, one a line.
const NAMES: &str = include_str!(concat!(env!("OUT_DIR"), "/kernels.txt"));

/// The kernels of one context. It does not keep the context alive; all modules are freed with the
/// context.
struct Functions {
    context: Weak<CudaContext>,
    by_name: HashMap<&'static str, Function>,
}

#[derive(Clone, Copy)]
struct Function(CUfunction);

// SAFETY: the driver accepts the handle on any thread, and no code here dereferences it.
unsafe impl Send for Function {}
// SAFETY: likewise.
unsafe impl Sync for Function {}

static LOADED: RwLock<Vec<Functions>> = RwLock::new(Vec::new());

/// Loads the kernels into a context, unless they are loaded.
///
/// # Errors
///
/// If the driver accepts neither the machine code nor the PTX, or a kernel is missing.
pub fn load(context: &Arc<CudaContext>) -> Result<()> {
    let is_loaded = |loaded: &[Functions]| loaded.iter().any(|of| of.is_of(context));
    if is_loaded(&LOADED.read().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(());
    }
    // Without the lock: the driver may compile, and other devices look kernels up meanwhile.
    context.bind_to_thread().w()?;
    let module = module(context)?;
    let mut by_name = HashMap::new();
    for name in NAMES.lines() {
        let symbol = CString::new(name).map_err(candle_core::Error::wrap)?;
        // SAFETY: the module has just been loaded.
        let function = unsafe { get_function(module, symbol) }.w()?;
        by_name.insert(name, Function(function));
    }
    let mut loaded = LOADED.write().unwrap_or_else(PoisonError::into_inner);
    loaded.retain(|of| of.context.strong_count() > 0);
    // Another thread may have been faster. Its kernels are the same, and both modules live as long
    // as the context.
    if !is_loaded(&loaded) {
        loaded.push(Functions {
            context: Arc::downgrade(context),
            by_name,
        });
    }
    Ok(())
}

/// Finds a kernel of a context, and loads the kernels if necessary.
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
        // The address is not reused while a weak reference exists.
        std::ptr::eq(self.context.as_ptr(), Arc::as_ptr(context))
    }
}

/// Loads the module with the kernels. It lives as long as the context.
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
    // SAFETY: the image is PTX that ends in 0, or a whole object file.
    unsafe { load_data(image.as_ptr().cast()) }
}
