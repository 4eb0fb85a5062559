//! iceoryx2: publish-subscribe, blackboard, and event.
//!
//! Services are set up as its own benchmarks and examples do: exactly the publishers, subscribers and readers that a job
//! needs, no history, loans written in place. Every measurement has a root directory and a prefix of its own, so that
//! what killed processes leave can be removed with it.

use std::cell::Cell;
use std::mem::MaybeUninit;

use anyhow::{Context, Result, anyhow, bail, ensure};
use iceoryx2::config::Config;
use iceoryx2::node::{Node, NodeBuilder};
use iceoryx2::port::backpressure_strategy::BackpressureStrategy;
use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::reader::{BlackboardValue, EntryHandle};
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::port::writer::EntryHandleMut;
use iceoryx2::prelude::{FileName, LogLevel, Path, SemanticString, ServiceName, set_log_level};
use iceoryx2::service::ipc::Service;
use iceoryx2::service::port_factory::blackboard::PortFactory as Blackboard;
use iceoryx2::signal_handling_mode::SignalHandlingMode;

use crate::contender::{Contender, Entry, Kind, is_built_in};
use crate::drive::late_join::{self, State, VALUES};
use crate::drive::latest::{self, Value};
use crate::drive::one_way::{self, Link};
use crate::drive::recovery;
use crate::drive::throughput::{self, Stream};
use crate::drive::wake::{self, Bell};
use crate::task::{Job, Side, Task, number};

fn version() -> String {
    env!("ICEORYX2_VERSION").to_owned()
}

const fn iceoryx2(
    name: &'static str,
    label: &'static str,
    config: &'static str,
    entries: &'static [Entry],
    lacks: &'static [(Job, &'static str)],
) -> Contender {
    Contender {
        name,
        system: "iceoryx2",
        kind: Kind::Peer,
        label,
        config,
        server: None,
        entries,
        lacks,
        is_here: is_built_in,
        version,
    }
}

/// The messaging patterns.
pub const CONTENDERS: &[Contender] = &[
    iceoryx2(
        "iceoryx2/pubsub",
        "iceoryx2, publish-subscribe",
        "ipc::Service, a slice of u64, one publisher and one subscriber for each direction, no history, buffer of one \
         sample with safe overflow: as benchmarks/publish-subscribe in its repository. Samples are loaned uninitialised, \
         written in place and read in place. For throughput no overflow, a buffer of 1024 samples and \
         BackpressureStrategy::RetryUntilDelivered, so that nothing is lost. For recovery two publishers are allowed and \
         the heir's stands by.",
        &[
            one_way::entry::<Samples>(&[8, 64, 1024, 64 << 10, 1 << 20]),
            throughput::entry::<Queue>(&[64]),
            recovery::entry::<Topic>(),
        ],
        &[],
    ),
    iceoryx2(
        "iceoryx2/blackboard",
        "iceoryx2, blackboard",
        "ipc::Service, values of [u64; N] in one blackboard, a writer and a reader, EntryHandleMut::loan_uninit and \
         update (written in place), EntryHandle::get (a copy); polled with is_up_to_date. For recovery the heir removes \
         dead nodes (Node::try_cleanup_dead_nodes) and creates the writer anew, because there can be only one.",
        &[
            one_way::entry::<Board<1>>(&[8]),
            one_way::entry::<Board<8>>(&[64]),
            one_way::entry::<Board<128>>(&[1024]),
            latest::read_alone::<Latest<8>>(&[64]),
            latest::read_alone::<Latest<128>>(&[1024]),
            latest::update_alone::<Latest<8>>(&[64]),
            latest::update_alone::<Latest<128>>(&[1024]),
            latest::contended::<Latest<8>>(&[64]),
            latest::contended::<Latest<128>>(&[1024]),
            late_join::entry::<Values>(),
            recovery::entry::<Latest<8>>(),
        ],
        &[],
    ),
    iceoryx2(
        "iceoryx2/event",
        "iceoryx2, event",
        "ipc::Service, one notifier and one listener that waits with blocking_wait; the value is in a blackboard, as in \
         its example event_based_communication.",
        &[wake::entry::<Event>()],
        &[(Job::Synced, "nothing is durable")],
    ),
];

/// Whatever its calls fail with.
fn told<E: std::fmt::Debug>(error: E) -> anyhow::Error {
    anyhow!("{error:?}")
}

fn node(task: &Task) -> Result<Node<Service>> {
    // It warns of every dead node, which is what recovery is about.
    set_log_level(LogLevel::Error);
    let mut config = Config::default();
    let root = task.dir.join("iceoryx2");
    let root = Path::new(root.as_os_str().as_encoded_bytes()).map_err(told)?;
    config.global.set_root_path(&root);
    // The name of the measurement is in the names of all files: who cleans up after it finds them.
    config.global.prefix = FileName::new(format!("{}_", task.name).as_bytes()).map_err(told)?;
    NodeBuilder::new()
        .config(&config)
        // Signals end this process at once, as they do all others.
        .signal_handling_mode(SignalHandlingMode::Disabled)
        .create::<Service>()
        .map_err(told)
}

fn name(text: &str) -> Result<ServiceName> {
    ServiceName::new(text).map_err(told)
}

#[inline(always)]
fn bytes(words: &[u64]) -> &[u8] {
    // SAFETY: words are bytes.
    unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * 8) }
}

/// A publisher of slices.
type Sender = Publisher<Service, [u64], ()>;
/// Their subscriber.
type Receiver = Subscriber<Service, [u64], ()>;

/// How a topic is set up.
#[derive(Clone, Copy)]
struct Setup {
    publishers: usize,
    buffer: usize,
    may_overflow: bool,
}

const LATENCY: Setup = Setup {
    publishers: 1,
    buffer: 1,
    may_overflow: true,
};

struct Topics<'n> {
    node: &'n Node<Service>,
    task: &'n Task,
    setup: Setup,
}

impl Topics<'_> {
    fn open(
        &self,
        topic: &str,
    ) -> Result<iceoryx2::service::port_factory::publish_subscribe::PortFactory<Service, [u64], ()>>
    {
        self.node
            .service_builder(&name(topic)?)
            .publish_subscribe::<[u64]>()
            .max_publishers(self.setup.publishers)
            .max_subscribers(1)
            .history_size(0)
            .subscriber_max_buffer_size(self.setup.buffer)
            .enable_safe_overflow(self.setup.may_overflow)
            .open_or_create()
            .map_err(told)
    }

    fn sender(&self, topic: &str) -> Result<Sender> {
        self.open(topic)?
            .publisher_builder()
            .initial_max_slice_len(self.task.words())
            .backpressure_strategy(BackpressureStrategy::RetryUntilDelivered)
            .create()
            .map_err(told)
    }

    fn receiver(&self, topic: &str) -> Result<Receiver> {
        self.open(topic)?
            .subscriber_builder()
            .buffer_size(self.setup.buffer)
            .create()
            .map_err(told)
    }
}

#[inline(always)]
fn publish(sender: &Sender, words: usize, n: u64) -> Result<usize> {
    let mut sample = sender.loan_slice_uninit(words).map_err(told)?;
    for word in sample.payload_mut() {
        word.write(n);
    }
    // SAFETY: every word was written.
    let sample = unsafe { sample.assume_init() };
    sample.send().map_err(told)
}

/// Messages by publish-subscribe.
struct Samples {
    task: Task,
    sender: Sender,
    receiver: Receiver,
    _node: Node<Service>,
}

impl Link for Samples {
    fn open(task: &Task, side: Side) -> Result<Samples> {
        let node = node(task)?;
        let service = Topics {
            node: &node,
            task,
            setup: LATENCY,
        };
        let (there, back) = match side {
            Side::Lead => ("there", "back"),
            Side::Peer => ("back", "there"),
        };
        Ok(Samples {
            task: task.clone(),
            sender: service.sender(there)?,
            receiver: service.receiver(back)?,
            _node: node,
        })
    }

    fn connect(&mut self) -> Result<()> {
        self.sender.update_connections().map_err(told)
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        let receivers = publish(&self.sender, self.task.words(), n)?;
        ensure!(receivers == 1, "nobody receives");
        Ok(())
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        match self.receiver.receive().map_err(told)? {
            Some(sample) => number(bytes(sample.payload())).map(Some),
            None => Ok(None),
        }
    }
}

/// Messages of which none is lost.
struct Queue {
    task: Task,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    _node: Node<Service>,
}

impl Stream for Queue {
    fn open(task: &Task, side: Side) -> Result<Queue> {
        let node = node(task)?;
        let service = Topics {
            node: &node,
            task,
            setup: Setup {
                publishers: 1,
                buffer: 1024,
                may_overflow: false,
            },
        };
        let is_lead = side == Side::Lead;
        Ok(Queue {
            task: task.clone(),
            sender: is_lead.then(|| service.sender("queue")).transpose()?,
            receiver: (!is_lead).then(|| service.receiver("queue")).transpose()?,
            _node: node,
        })
    }

    fn connect(&mut self) -> Result<()> {
        match &self.sender {
            Some(sender) => sender.update_connections().map_err(told),
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn send(&mut self, next: u64) -> Result<u64> {
        let Some(sender) = &self.sender else {
            bail!("the receiver has nothing to send with");
        };
        publish(sender, self.task.words(), next)?;
        Ok(1)
    }

    #[inline(always)]
    fn receive(&mut self, next: u64) -> Result<u64> {
        let Some(receiver) = &self.receiver else {
            bail!("the sender has nothing to receive with");
        };
        let mut got = 0;
        while let Some(sample) = receiver.receive().map_err(told)? {
            throughput::expect(number(bytes(sample.payload()))?, next + got)?;
            got += 1;
            if got == 64 {
                break;
            }
        }
        Ok(got)
    }
}

/// The latest message of a topic.
struct Topic {
    task: Task,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    latest: u64,
    _node: Node<Service>,
}

impl Value for Topic {
    const STANDBY: bool = true;

    fn open(task: &Task, side: Side) -> Result<Topic> {
        let node = node(task)?;
        let service = Topics {
            node: &node,
            task,
            setup: Setup {
                publishers: 2,
                ..LATENCY
            },
        };
        let is_lead = side == Side::Lead;
        Ok(Topic {
            task: task.clone(),
            sender: is_lead.then(|| service.sender("topic")).transpose()?,
            receiver: (!is_lead).then(|| service.receiver("topic")).transpose()?,
            latest: 0,
            _node: node,
        })
    }

    fn write(&mut self, n: u64) -> Result<()> {
        let Some(sender) = &self.sender else {
            bail!("a reader does not write");
        };
        publish(sender, self.task.words(), n)?;
        Ok(())
    }

    fn read(&mut self) -> Result<u64> {
        let Some(receiver) = &self.receiver else {
            bail!("a writer does not read");
        };
        while let Some(sample) = receiver.receive().map_err(told)? {
            self.latest = number(bytes(sample.payload()))?;
        }
        Ok(self.latest)
    }
}

fn create_board<const N: usize>(
    node: &Node<Service>,
    topic: &str,
) -> Result<Blackboard<Service, u64>> {
    node.service_builder(&name(topic)?)
        .blackboard_creator::<u64>()
        .max_readers(2)
        .max_nodes(4)
        .add::<[u64; N]>(0, [0; N])
        .create()
        .map_err(told)
}

fn open_board(node: &Node<Service>, topic: &str) -> Result<Blackboard<Service, u64>> {
    node.service_builder(&name(topic)?)
        .blackboard_opener::<u64>()
        .open()
        .map_err(told)
}

/// The one who may write a value. Updating takes the handle, and gives it back.
struct Writer<const N: usize>(Cell<Option<EntryHandleMut<Service, u64, [u64; N]>>>);

impl<const N: usize> Writer<N> {
    fn new(board: &Blackboard<Service, u64>) -> Result<Writer<N>> {
        let writer = board.writer_builder().create().map_err(told)?;
        let entry = writer.entry::<[u64; N]>(&0).map_err(told)?;
        Ok(Writer(Cell::new(Some(entry))))
    }

    #[inline(always)]
    fn write(&self, n: u64) -> Result<()> {
        let Some(entry) = self.0.take() else {
            bail!("the entry is gone");
        };
        let mut value = entry.loan_uninit();
        let words: &mut MaybeUninit<[u64; N]> = value.value_mut();
        words.write([n; N]);
        // SAFETY: it was written.
        self.0.set(Some(unsafe { value.assume_init_and_update() }));
        Ok(())
    }
}

fn reader<const N: usize>(
    board: &Blackboard<Service, u64>,
) -> Result<EntryHandle<Service, u64, [u64; N]>> {
    let reader = board.reader_builder().create().map_err(told)?;
    reader.entry::<[u64; N]>(&0).map_err(told)
}

/// Messages by a blackboard for each direction.
struct Board<const N: usize> {
    there: Writer<N>,
    back: EntryHandle<Service, u64, [u64; N]>,
    seen: Option<BlackboardValue<[u64; N]>>,
    _boards: [Blackboard<Service, u64>; 2],
    _node: Node<Service>,
}

impl<const N: usize> Link for Board<N> {
    fn open(task: &Task, side: Side) -> Result<Self> {
        let node = node(task)?;
        let boards = match side {
            Side::Lead => [
                create_board::<N>(&node, "there")?,
                create_board::<N>(&node, "back")?,
            ],
            Side::Peer => [open_board(&node, "back")?, open_board(&node, "there")?],
        };
        Ok(Board {
            there: Writer::new(&boards[0])?,
            back: reader(&boards[1])?,
            seen: None,
            _boards: boards,
            _node: node,
        })
    }

    #[inline(always)]
    fn send(&mut self, n: u64) -> Result<()> {
        self.there.write(n)
    }

    #[inline(always)]
    fn receive(&mut self) -> Result<Option<u64>> {
        if self
            .seen
            .as_ref()
            .is_some_and(|seen| self.back.is_up_to_date(seen))
        {
            return Ok(None);
        }
        let value = self.back.get();
        let n = number(bytes(&*value))?;
        let is_news = n != 0 && self.seen.as_ref().is_none_or(|seen| seen[0] != n);
        self.seen = Some(value);
        Ok(is_news.then_some(n))
    }
}

/// The value of one entry.
struct Latest<const N: usize> {
    writer: Option<Writer<N>>,
    reader: Option<EntryHandle<Service, u64, [u64; N]>>,
    _board: Blackboard<Service, u64>,
    _node: Node<Service>,
}

impl<const N: usize> Value for Latest<N> {
    const STANDBY: bool = false;

    fn open(task: &Task, side: Side) -> Result<Self> {
        let node = node(task)?;
        let is_lead = side == Side::Lead;
        let board = match side {
            Side::Lead => create_board::<N>(&node, "value")?,
            Side::Peer => open_board(&node, "value")?,
        };
        Ok(Latest {
            writer: is_lead.then(|| Writer::new(&board)).transpose()?,
            reader: (!is_lead).then(|| reader(&board)).transpose()?,
            _board: board,
            _node: node,
        })
    }

    fn inherit(task: &Task) -> Result<Self> {
        let node = node(task)?;
        let cleaned = node.try_cleanup_dead_nodes();
        let board = open_board(&node, "value")?;
        let writer = Writer::new(&board);
        let writer = writer.with_context(|| format!("behind {cleaned:?}"))?;
        Ok(Latest {
            writer: Some(writer),
            reader: None,
            _board: board,
            _node: node,
        })
    }

    #[inline(always)]
    fn write(&mut self, n: u64) -> Result<()> {
        match &self.writer {
            Some(writer) => writer.write(n),
            None => bail!("a reader does not write"),
        }
    }

    #[inline(always)]
    fn read(&mut self) -> Result<u64> {
        match &self.reader {
            Some(reader) => number(bytes(&*reader.get())),
            None => bail!("a writer does not read"),
        }
    }
}

/// Many entries of one blackboard.
struct Values {
    _board: Blackboard<Service, u64>,
    _node: Node<Service>,
}

impl State for Values {
    fn host(task: &Task) -> Result<Values> {
        let node = node(task)?;
        let mut creator = node
            .service_builder(&name("values")?)
            .blackboard_creator::<u64>();
        for at in 0..VALUES as u64 {
            creator = creator.add::<[u64; 8]>(at, [at + 1; 8]);
        }
        Ok(Values {
            _board: creator.create().map_err(told)?,
            _node: node,
        })
    }

    fn join(task: &Task, take: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let node = node(task)?;
        let board = open_board(&node, "values")?;
        let reader = board.reader_builder().create().map_err(told)?;
        for at in 0..VALUES {
            let entry = reader.entry::<[u64; 8]>(&(at as u64)).map_err(told)?;
            take(at, bytes(&*entry.get()))?;
        }
        Ok(())
    }
}

/// A listener that sleeps, and the value that it is woken for.
struct Event {
    value: Latest<1>,
    notifier: Option<Notifier<Service>>,
    listener: Option<Listener<Service>>,
}

impl Bell for Event {
    fn open(task: &Task, side: Side) -> Result<Event> {
        let value = Latest::open(task, side)?;
        let event = value
            ._node
            .service_builder(&name("event")?)
            .event()
            .max_notifiers(1)
            .max_listeners(1)
            .open_or_create()
            .map_err(told)?;
        let is_lead = side == Side::Lead;
        Ok(Event {
            notifier: is_lead
                .then(|| event.notifier_builder().create().map_err(told))
                .transpose()?,
            listener: (!is_lead)
                .then(|| event.listener_builder().create().map_err(told))
                .transpose()?,
            value,
        })
    }

    fn ring(&mut self, n: u64) -> Result<()> {
        let Some(notifier) = &self.notifier else {
            bail!("who sleeps does not notify");
        };
        self.value.write(n)?;
        ensure!(notifier.notify().map_err(told)? == 1, "nobody listens");
        Ok(())
    }

    fn wait(&mut self) -> Result<u64> {
        let Some(listener) = &self.listener else {
            bail!("who notifies does not sleep");
        };
        let mut is_woken = false;
        while !is_woken {
            listener.blocking_wait(|_| is_woken = true).map_err(told)?;
        }
        self.value.read()
    }
}
