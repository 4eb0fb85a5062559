//! Subscriptions as asynchronous streams, for any runtime: feature `async`.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

use crate::error::Result;
use crate::poll_fd::Watch;
use crate::{Event, Subscription};

impl Stream for Subscription<'_> {
    type Item = Result<Event>;

    /// Yields events as they come and never ends. The helper thread of the process wakes the task, so no runtime is
    /// needed and none is blocked. A `Subscription` is bound to its thread: drive it from a local task.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Event>>> {
        let this = &mut *self;
        if this.watch.is_none() {
            match Watch::new(this.bus().core(), None) {
                Ok(watch) => this.watch = Some(watch),
                Err(e) => return Poll::Ready(Some(Err(e))),
            }
        }
        if let Some(watch) = &this.watch {
            // Ahead of the look that finds nothing and arms: a wake-up in between finds the waker.
            watch.set_waker(cx.waker());
        }
        match this.try_next() {
            Ok(Some(event)) => Poll::Ready(Some(Ok(event))),
            Ok(None) => Poll::Pending,
            Err(e) => Poll::Ready(Some(Err(e))),
        }
    }
}
