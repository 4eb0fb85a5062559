//! The witness: takes cuts of the running bus, and tells the hash of each once the log has it.

use std::time::Duration;

use mmsb::checkpoint::{self, ImageSource};
use mmsb::state::{Heap, Loaded, PageShape, State};
use mmsb::{Bus, Error};

use crate::cli::exit::Failure;
use crate::demo::crew::Role;
use crate::demo::message::{Cut, Message, Parent};
use crate::demo::worker::Assignment;

use super::STUCK;

/// Pause between two cuts.
const PAUSE: Duration = Duration::from_millis(150);

/// A live bus, to be copied.
pub struct Copier<'b> {
    bus: &'b Bus,
    images: Box<dyn ImageSource>,
}

impl<'b> Copier<'b> {
    /// Of this bus.
    ///
    /// # Errors
    ///
    /// That it has no room for another participant.
    pub fn new(bus: &'b Bus) -> Result<Copier<'b>, Failure> {
        let images = checkpoint::images(bus, 1)?;
        Ok(Copier { bus, images })
    }

    /// Its pages one by one, for those who compare.
    pub fn images(&self) -> &dyn ImageSource {
        self.images.as_ref()
    }

    /// All pages between two deltas, and the LSN of the last one that they hold. Writers may go on; pages neither come nor
    /// go, and nobody describes them anew.
    ///
    /// # Errors
    ///
    /// What reading gave.
    pub fn copy(&self) -> Result<(State, u64), Failure> {
        let told = |e: checkpoint::OtherError| Failure::problem(e.to_string());
        let ids = self.images.pages().map_err(told)?;
        let cut = self.bus.snapshot(&ids)?;
        let mut state = State::new(self.images.meta().map_err(told)?, Heap::default());
        let mut bytes = Vec::new();
        let mut lsn = 0;
        for page in cut {
            let described = self.images.image(page.id, &mut bytes).map_err(told)?;
            let described =
                described.ok_or_else(|| Failure::problem(format!("page {} is gone", page.id)))?;
            lsn = lsn.max(page.version.lsn);
            state.insert(Loaded {
                shape: PageShape {
                    epoch: page.version.epoch,
                    lsn: page.version.lsn,
                    ..described.shape
                },
                cold: described.cold,
                bytes: page.bytes.into_boxed_slice(),
            })?;
        }
        Ok((state, lsn))
    }
}

/// Hash of a state, as it goes through JSON.
pub fn hash(state: &State) -> String {
    format!("{:032x}", state.hash())
}

/// Takes cuts until the parent asks to end.
///
/// # Errors
///
/// What reading gave. That the log does not get on is nobody's fault here: agents are killed.
pub fn run(assignment: &Assignment, parent: &mut Parent) -> Result<(), Failure> {
    let bus = assignment.bus(Role::Witness).attach()?;
    let copier = Copier::new(&bus)?;
    parent.send(&Message::Ready {
        resumed: Vec::new(),
    })?;
    while !parent.asks_to_end() {
        let (state, lsn) = copier.copy()?;
        match bus.wait_durable(lsn, STUCK) {
            Ok(()) => parent.send(&Message::Cut(Cut {
                lsn,
                hash: hash(&state),
            }))?,
            Err(e @ Error::Page(_)) if e.is_not_durable() => {}
            Err(e) => return Err(e.into()),
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}
