//! Threads that compute stand back behind those that have to be on time.

/// Lowers the priority of the thread that calls it, and of those that it starts: a thread that hands
/// over a frame, or shows one, is not to wait for a scheduler's tick until a pass lets go of the core.
/// Where the system does not allow it nothing changes.
///
/// On Linux the thread's nice value becomes [`NICE`], and its policy `SCHED_BATCH`, with which a thread that
/// is woken never takes the core from the one that woke it. Neither needs a privilege. The nice value cannot
/// be raised again without one, so this is for threads that do nothing else.
pub fn lower_priority() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // 0 is the calling thread: on Linux each thread has a nice value of its own.
        let _ = rustix::process::setpriority_process(None, NICE);
        // SAFETY: a plain structure of numbers, of which this policy wants zeros.
        let param: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: 0 is the calling thread too, and the structure lives for the call.
        let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) };
    }
}

/// Leaves a thread a quarter of a core that one of normal priority wants too.
pub const NICE: i32 = 5;
