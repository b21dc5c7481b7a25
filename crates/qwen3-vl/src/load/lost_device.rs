//! Tests of windows whose device fails.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Result, Tensor, bail};
use qwen3_vl_core::EventSink;
use qwen3_vl_core::backend::WindowHead;
use qwen3_vl_core::clip::clip;
use qwen3_vl_core::event::Event;
use qwen3_vl_core::failure::Failure;
use qwen3_vl_core::frames::{Frame, Size, VisionInput};
use qwen3_vl_core::request::{Request, SamplingParams};

use super::{LoadOptions, ModelSource, load_runner};
use crate::cpu::patchify::Cut;
use crate::device::{DeviceChoice, DtypeChoice};
use crate::engine::interrupt::{Interest, Waiter};
use crate::engine::sequence::Ask;
use crate::engine::{Command, Engine};
use crate::model::platform::{Candidates, Penalties, PendingEncode, Platform};
use crate::model::tensors::Tensors;
use crate::model::{Geometry, SequenceSlice, TextModel, VisionTower, Workspace};
use crate::weights::QuantizeAtLoad;

/// Longest wait: an event that has not come by then never comes.
const WATCHDOG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Encode,
    Forward,
    Candidates,
}

/// A device that fails at one operation, with a driver's error.
#[derive(Debug)]
struct Failing {
    device: Arc<dyn Platform>,
    at: Operation,
    error: Arc<Mutex<Option<Error>>>,
}

/// What the driver says, and whether it says it once only.
#[derive(Clone, Copy, Debug)]
struct Error {
    text: &'static str,
    once: bool,
}

const OUT_OF_MEMORY: &str = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";

impl Failing {
    fn check(&self, operation: Operation) -> Result<()> {
        let mut next = self.error.lock().unwrap();
        match *next {
            Some(Error { text, once }) if operation == self.at => {
                next.take_if(|_| once);
                bail!("{text}")
            }
            _ => Ok(()),
        }
    }
}

impl Platform for Failing {
    fn logits(
        &self,
        model: &TextModel,
        parts: &mut [SequenceSlice<'_>],
        workspace: &mut Workspace,
    ) -> Result<Option<Tensor>> {
        self.check(Operation::Forward)?;
        self.device.logits(model, parts, workspace)
    }

    fn patches(
        &self,
        inputs: &[VisionInput],
        cut: &Cut,
        to: (DType, &Device),
        workspace: &mut Workspace,
    ) -> Result<Tensor> {
        self.device.patches(inputs, cut, to, workspace)
    }

    fn encode(
        &self,
        tower: &VisionTower,
        patches: &Tensor,
        geometry: &Geometry,
        to: &Device,
        workspace: &mut Workspace,
    ) -> Result<Box<dyn PendingEncode>> {
        self.check(Operation::Encode)?;
        self.device.encode(tower, patches, geometry, to, workspace)
    }

    fn candidates(
        &self,
        logits: &Tensor,
        most: Option<usize>,
        penalties: &Penalties<'_>,
        workspace: &mut Workspace,
    ) -> Result<Candidates> {
        self.check(Operation::Candidates)?;
        self.device.candidates(logits, most, penalties, workspace)
    }
}

/// An engine with the demo model on such a device.
struct Bench {
    engine: Engine,
    error: Arc<Mutex<Option<Error>>>,
    interest: Arc<Interest>,
    _waiter: Waiter,
    next: u64,
}

/// Receives the failure of a window and the events of its request.
struct Heard {
    lost: Receiver<Failure>,
    events: Receiver<Event>,
}

impl Bench {
    fn new(at: Operation) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo");
        let options = LoadOptions {
            source: ModelSource::Folder(folder),
            mmproj: None,
            device: DeviceChoice::Cpu,
            dtype: DtypeChoice::Auto,
            quantization: QuantizeAtLoad::None,
            compute: None,
            kv_memory: None,
        };
        let never = AtomicBool::new(false);
        let (_, mut runner) = load_runner(&options, &mut |_| (), &never).unwrap();
        let error = Arc::default();
        runner.parts.model.run_on(Arc::new(Failing {
            device: Arc::new(Tensors),
            at,
            error: Arc::clone(&error),
        }));
        let (engine, interest) = (Engine::start(runner).unwrap(), Arc::default());
        Self {
            _waiter: Waiter::new(engine.interrupt(), &interest),
            interest,
            engine,
            error,
            next: 0,
        }
    }

    fn send(&self, command: Command) {
        self.engine.commands().unwrap().send(command).unwrap();
    }

    /// Opens a window with a frame pair, and makes a request if `asked`.
    fn window(&mut self, asked: bool) -> Heard {
        let size = Size {
            width: 128,
            height: 96,
        };
        self.window_of(asked.then_some(size))
    }

    /// A window that is asked about a pair of frames of this size, if there is one.
    fn window_of(&mut self, size: Option<Size>) -> Heard {
        let id = self.next;
        self.next += 2;
        let (tell_lost, lost) = channel();
        let (tell, events) = channel();
        self.send(Command::Open {
            id,
            head: WindowHead::default(),
            lost: Box::new(move |failure| tell_lost.send(failure).unwrap()),
            interest: self.interest.clone(),
        });
        if let Some(size) = size {
            let frame = |t: u32| Frame {
                rgb: clip(t, size, 0).into(),
                size,
                seconds: f64::from(t) / 2.0,
            };
            self.send(Command::Push {
                id,
                input: VisionInput::Pair([frame(0), frame(1)]),
                at: Instant::now(),
            });
            let ask = Ask {
                id: id + 1,
                request: Request {
                    prompt: "Describe the traffic.".into(),
                    max_tokens: 4,
                    reasoning_tokens: 0,
                    sampling: SamplingParams::default(),
                    seed: 0,
                    emit_tokens: false,
                    repetition_guard: 0,
                },
                sink: EventSink::new(move |event| tell.send(event).unwrap()),
                at: Instant::now(),
                waiter: None,
            };
            self.send(Command::Ask { window: id, ask });
            self.send(Command::Close { id });
        }
        Heard { lost, events }
    }

    fn fails_with(&self, error: Option<&'static str>) {
        *self.error.lock().unwrap() = error.map(|text| Error { text, once: false });
    }

    fn fails_once(&self, text: &'static str) {
        *self.error.lock().unwrap() = Some(Error { text, once: true });
    }
}

fn end(heard: &Heard) -> Event {
    heard.events.recv_timeout(WATCHDOG).unwrap()
}

#[test]
fn a_lost_device_is_the_end_of_the_engine() {
    for at in [Operation::Encode, Operation::Forward, Operation::Candidates] {
        let mut bench = Bench::new(at);
        assert!(
            matches!(end(&bench.window(true)), Event::Answer(_)),
            "{at:?}"
        );
        let open = bench.window(false);
        bench.fails_with(Some("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"…\")"));
        let Event::Failed(Failure::Fatal(text)) = end(&bench.window(true)) else {
            panic!("{at:?}: not fatal");
        };
        for part in ["device failed", "ILLEGAL_ADDRESS", "restart the element"] {
            assert!(text.contains(part), "{text:?} does not say {part:?}");
        }
        // All windows fail, also those opened later, although the device works again.
        bench.fails_with(None);
        assert!(bench.engine.is_broken());
        let later = bench.window(false);
        for heard in [&open, &later] {
            let failure = heard.lost.recv_timeout(WATCHDOG).unwrap();
            assert_eq!(failure, Failure::Fatal(text.clone()), "{at:?}");
        }
        let Event::Failed(failure) = end(&bench.window(true)) else {
            panic!("{at:?}: an answer of a lost device");
        };
        assert_eq!(failure, Failure::Fatal(text));
    }
}

#[test]
fn a_device_without_memory_is_full_and_works_on() {
    for (at, error, name) in [
        (Operation::Encode, OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        (Operation::Forward, OUT_OF_MEMORY, "OUT_OF_MEMORY"),
        // What cuBLAS says when it finds none for itself.
        (
            Operation::Forward,
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "ALLOC_FAILED",
        ),
    ] {
        let mut bench = Bench::new(at);
        bench.fails_with(Some(error));
        let Event::Failed(Failure::Full(text)) = end(&bench.window(true)) else {
            panic!("{at:?}: not full");
        };
        assert!(text.contains(name), "{text}");
        bench.fails_with(None);
        assert!(!bench.engine.is_broken());
        assert!(
            matches!(end(&bench.window(true)), Event::Answer(_)),
            "{at:?}"
        );
    }
}

/// What a batch lacks memory for is no harm to windows whose inputs are not in it.
#[test]
fn a_batch_that_fails_fails_only_the_windows_in_it() {
    let mut bench = Bench::new(Operation::Encode);
    // The engine waits here until both windows are there.
    let (at_lost, reached) = channel();
    let (go, gate) = channel::<()>();
    let id = bench.next;
    bench.next += 2;
    bench.send(Command::Open {
        id,
        head: WindowHead {
            tokens: usize::MAX,
            ..WindowHead::default()
        },
        lost: Box::new(move |_| {
            at_lost.send(()).unwrap();
            gate.recv_timeout(WATCHDOG).unwrap();
        }),
        interest: bench.interest.clone(),
    });
    reached.recv_timeout(WATCHDOG).unwrap();
    let [first, second] = [(128, 96), (96, 128)].map(|(width, height)| {
        let size = Size { width, height };
        bench.window_of(Some(size))
    });
    bench.fails_once(OUT_OF_MEMORY);
    go.send(()).unwrap();
    assert!(matches!(end(&first), Event::Failed(Failure::Full(_))));
    assert!(matches!(end(&second), Event::Answer(_)));
}
