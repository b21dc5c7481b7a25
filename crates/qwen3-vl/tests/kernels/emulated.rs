//! Runs the emulated kernels.

use std::ffi::{CString, c_char, c_void};
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex, PoisonError};

use half::bf16;
use libloading::{Library, Symbol};
use qwen3_vl_testing::weights::hash_fill;

/// The kernels as a library of the CPU, one launch at a time.
static KERNELS: LazyLock<Mutex<Library>> = LazyLock::new(|| {
    let library = library().unwrap();
    // SAFETY: the library's initialisers only fill the table of kernels.
    Mutex::new(unsafe { Library::new(library) }.unwrap())
});

/// The compiled library. Each test may be a process of its own: the first one compiles, for as long
/// as the sources stay the same.
fn library() -> std::io::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (kernels, emulator) = (root.join("kernels"), root.join("tests/kernels"));
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let mut hash = DefaultHasher::new();
    compiler.hash(&mut hash);
    for folder in [&kernels, &emulator] {
        let mut files = std::fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
        files.sort_by_key(std::fs::DirEntry::path);
        for file in files.iter().map(std::fs::DirEntry::path) {
            let extension = file.extension().and_then(|e| e.to_str());
            if let Some("cu" | "cuh" | "h") = extension {
                std::fs::read(file)?.hash(&mut hash);
            }
        }
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let library = folder.join(format!("kernels-{:016x}.so", hash.finish()));
    let lock = File::create(folder.join("kernels.lock"))?;
    lock.lock()?;
    if library.exists() {
        return Ok(library);
    }
    let unfinished = folder.join("kernels.so");
    let done = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-shared", "-fPIC", "-Wall", "-Werror"])
        .arg("-include")
        .arg(emulator.join("emulate.h"))
        .arg("-I")
        .arg(&emulator)
        .args(["-x", "c++"])
        .arg(kernels.join("kernels.cu"))
        .arg("-o")
        .arg(&unfinished)
        .status()
        .unwrap_or_else(|e| panic!("{compiler}: {e}"));
    assert!(done.success(), "the kernels do not compile");
    std::fs::rename(unfinished, &library)?;
    Ok(library)
}

type Launch = unsafe extern "C" fn(*const c_char, u32, u32, u32, u32, *mut *mut c_void) -> bool;

/// Runs a kernel in a grid of blocks of `threads` threads. `arguments` are the addresses of its
/// arguments, which have the types of the source and are as large as the grid implies; see
/// [`launch!`](crate::launch).
pub fn launch(
    name: &str,
    (x, y, z): (usize, usize, usize),
    threads: u32,
    arguments: &mut [*mut c_void],
) {
    let kernels = KERNELS.lock().unwrap_or_else(PoisonError::into_inner);
    let symbol = CString::new(name).unwrap();
    let grid = [x, y, z].map(|n| u32::try_from(n).unwrap());
    // SAFETY: as above.
    let found = unsafe {
        let run: Symbol<'_, Launch> = kernels.get(b"emulate_launch").unwrap();
        run(
            symbol.as_ptr(),
            grid[0],
            grid[1],
            grid[2],
            threads,
            arguments.as_mut_ptr(),
        )
    };
    assert!(found, "no kernel {name}");
}

/// Runs a kernel, given its name, grid, threads per block and arguments, which are borrowed until
/// it has ended.
#[macro_export]
macro_rules! launch {
    ($name:expr, $grid:expr, $threads:expr, $($argument:expr),* $(,)?) => {
        $crate::emulated::launch($name, $grid, $threads, &mut [$((&raw const *&$argument).cast_mut().cast()),*])
    };
}

/// A type of values with kernels.
pub trait Value: Copy + Default + PartialEq + std::fmt::Debug + 'static {
    const NAME: &'static str;
    /// Largest error of a rounded result, relative to the largest value.
    const STEP: f32;
    fn of(value: f32) -> Self;
    fn wide(self) -> f32;
}

impl Value for f32 {
    const NAME: &'static str = "f32";
    const STEP: f32 = 2e-6;
    fn of(value: f32) -> Self {
        value
    }
    fn wide(self) -> f32 {
        self
    }
}

impl Value for bf16 {
    const NAME: &'static str = "bf16";
    // Half a step of 8 bits.
    const STEP: f32 = 1.0 / 256.0;
    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }
    fn wide(self) -> f32 {
        self.to_f32()
    }
}

/// Values from -3 to 3.
pub fn random<T: Value>(name: &str, count: usize, seed: u64) -> Vec<T> {
    // The formula gives values of a bias, from -0.1 to 0.1.
    let values = hash_fill(name, &[count], seed).into_iter();
    values.map(|value| T::of(30.0 * value)).collect()
}

pub fn wide<T: Value>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.wide()).collect()
}

/// Asserts that all values are as wanted, up to `steps` roundings of the largest.
pub fn close<T: Value>(what: &str, got: &[T], want: &[f32], steps: f32) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |most, value| most.max(value.abs()));
    assert!(largest > 0.0, "{what}: nothing to compare");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (got.wide() - want).abs();
        assert!(
            difference <= steps * T::STEP * largest,
            "{what} {} at {i}: {}, not {want}",
            T::NAME,
            got.wide()
        );
    }
}
