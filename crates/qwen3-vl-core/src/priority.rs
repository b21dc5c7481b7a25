//! Lower priority for threads that compute, so that threads with deadlines run first.

/// Lowers the priority of the calling thread and of the threads that it starts. Otherwise a thread
/// that pushes or shows a frame may wait a scheduler's tick for a core that a forward pass uses.
/// Where the system does not allow it nothing changes.
///
/// On Linux the thread gets the nice value [`NICE`] and the policy `SCHED_BATCH`, with which a
/// woken thread never preempts the one that woke it. Neither needs a privilege. Raising the
/// priority again does, so this is for threads that only compute.
pub fn lower_priority() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        // 0 is the calling thread: on Linux each thread has a nice value of its own.
        let _ = rustix::process::setpriority_process(None, NICE);
        // SAFETY: a plain structure of numbers, which this policy wants to be zero.
        let param: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: 0 is the calling thread too, and the structure lives for the call.
        let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const param) };
    }
}

/// Leaves the thread a quarter of a core for which a thread of normal priority competes.
pub const NICE: i32 = 5;
