use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::device::{DeviceChoice, DtypeChoice};
use crate::load::{LoadOptions, ModelSource, load_runner};
use crate::weights::QuantizeAtLoad;

/// The command that wakes the thread may be handled by a turn that began before the engine was
/// stopped. That turn must not wait for another one: an open window keeps the channel connected.
#[test]
fn a_stopped_engine_does_not_wait_for_a_command() {
    let options = LoadOptions {
        source: ModelSource::Folder(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo"),
        ),
        mmproj: None,
        device: DeviceChoice::Cpu,
        dtype: DtypeChoice::Auto,
        quantization: QuantizeAtLoad::None,
        compute: None,
        kv_memory: None,
    };
    let (_, runner) = load_runner(&options, &mut |_| {}, &AtomicBool::new(false)).unwrap();
    let (commands, inbox) = unbounded();
    let mut worker = Worker::new(runner, inbox, Arc::default());
    worker.interrupt.stop();
    commands.send(Command::Cancel { id: u64::MAX }).unwrap();
    assert!(!worker.turn());
    drop(commands);
}
