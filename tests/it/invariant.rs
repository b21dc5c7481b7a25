//! Random operations in random order: see `common::element_state_machine`.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use crate::common::element_state_machine::{Conditions, ElementStateMachine, Op, any_op};

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 256,
        rng_seed: RngSeed::Fixed(3),
        failure_persistence: None,
        max_shrink_time: 30_000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_window_ends_once(
        live in any::<bool>(),
        holds in prop::bool::weighted(0.3),
        ops in prop::collection::vec(any_op(10), 1..60),
        end in prop::sample::select(vec![Op::Eos, Op::Seek, Op::Restart(gst::State::Ready)]),
    ) {
        let mut machine = ElementStateMachine::new(Conditions { holds, ..Conditions::new(live) });
        for op in ops {
            machine.step(op);
        }
        machine.check(end);
    }
}
