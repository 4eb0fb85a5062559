//! Nothing happens, so nothing costs. Alone in its process, because it measures the CPU time of all threads.

mod common;

use std::time::Duration;

use common::{TestBus, process_cpu};
use mmsb::WaitStrategy;

#[test]
fn idle_subscribers_of_every_kind_use_no_cpu_together() {
    let t = TestBus::new();
    let wait = Duration::from_secs(1);
    let before = process_cpu();
    std::thread::scope(|s| {
        for strategy in [WaitStrategy::Park, WaitStrategy::SpinThenPark] {
            let bus = t.another("parked").unwrap();
            s.spawn(move || {
                let mut sub = bus.subscribe().strategy(strategy).build().unwrap();
                // Joining is a record of its own (a source), which is no event.
                assert_eq!(sub.next_timeout(wait).unwrap(), None);
            });
        }
        let observer = t.builder().observe().unwrap();
        s.spawn(move || {
            let mut follower = observer.follow().unwrap();
            assert_eq!(follower.next_timeout(wait).unwrap(), None);
        });
        let bus = t.another("pollable").unwrap();
        s.spawn(move || {
            let mut sub = bus.subscribe().build().unwrap();
            let fd = sub.pollable().unwrap();
            let mut fds = [rustix::event::PollFd::new(
                &fd,
                rustix::event::PollFlags::IN,
            )];
            let timeout = rustix::time::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)).unwrap(), 0);
        });
    });
    let used = process_cpu() - before;
    assert!(used < Duration::from_millis(50), "{used:?} in one second");
}
