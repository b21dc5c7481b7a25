//! Threads that compute stand back behind those that have to be on time.

/// Lowers the priority of the thread that calls it, and of those that it starts: a thread that hands
/// over a frame, or shows one, is not to wait for a scheduler's tick until a pass lets go of the core.
/// Where the system does not allow it nothing changes.
///
/// On Linux the thread's nice value becomes [`NICE`], which needs no privilege. It cannot be raised again
/// without one, so this is for threads that do nothing else.
pub fn lower_priority() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // 0 is the calling thread: on Linux each thread has a nice value of its own.
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}

/// Leaves a thread a quarter of a core that one of normal priority wants too.
pub const NICE: i32 = 5;
