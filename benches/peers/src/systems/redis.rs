//! Redis: its server, in a process of its own behind a unix socket, and the crate redis.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use redis::{
    Client, Connection, ConnectionAddr, ConnectionLike, IntoConnectionInfo, PubSub,
    RedisConnectionInfo, Value as Reply, cmd,
};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::contender::{Contender, Kind};
use crate::drive::late_join::{self, State, VALUES};
use crate::drive::latest::{self, Value};
use crate::drive::one_way::{self, Link};
use crate::drive::recovery;
use crate::drive::synced::{self, Engine};
use crate::drive::throughput::{self, Stream};
use crate::drive::wake::{self, Bell};
use crate::task::{Job, Side, Task, fill, number, say};

/// The program of Debian's package redis-server.
const PROGRAM: &str = "redis-server";
/// The server listens, and answers, much sooner.
const PATIENCE: Duration = Duration::from_secs(20);

/// Redis.
pub const CONTENDERS: &[Contender] = &[Contender {
    name: "redis",
    system: "Redis",
    kind: Kind::Peer,
    label: "Redis, unix socket",
    config: "One redis-server with default settings, on a unix socket (its documentation on latency: quicker than TCP), \
             without snapshots and log; not pinned, since there are three processes on two cores; the server and the \
             subscriber sleep while they wait. Messages: PUBLISH to a subscriber that blocks, replies to the publisher turned off (CLIENT \
             REPLY OFF), no limit of output buffers (client-output-buffer-limit pubsub 0 0 0). Throughput: a list as a \
             queue, RPUSH of 256 messages in one command, 4 commands under way, BLMPOP COUNT 256 by the receiver: quicker \
             than pipelined PUBLISH. Values: SET and GET. State: MGET of all keys on a new connection. Synced: appendonly \
             yes, appendfsync always, a connection for each thread.",
    server: Some(server),
    entries: &[
        one_way::entry::<Channels>(&[8, 64, 1024, 64 << 10, 1 << 20]),
        throughput::entry::<Queue>(&[64]),
        latest::read_alone::<Key>(&[64, 1024]),
        latest::update_alone::<Key>(&[64, 1024]),
        latest::contended::<Key>(&[64, 1024]),
        wake::entry::<Subscriber>(),
        late_join::entry::<Keys>(),
        synced::entry::<Log>(),
        recovery::entry::<Key>(),
    ],
    lacks: &[],
    is_here,
    version,
}];

/// What the program says of its version; none where there is no such program.
fn found() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let output = Command::new(PROGRAM).arg("--version").output().ok()?;
            let text = String::from_utf8(output.stdout).ok()?;
            let version = text
                .split_whitespace()
                .find_map(|word| word.strip_prefix("v="))?;
            Some(version.to_owned())
        })
        .as_deref()
}

fn is_here() -> std::result::Result<(), String> {
    match found() {
        Some(_) => Ok(()),
        None => Err(format!(
            "there is no program {PROGRAM} (Debian: package redis-server)"
        )),
    }
}

fn version() -> String {
    found().unwrap_or("not here").to_owned()
}

fn socket(task: &Task) -> PathBuf {
    task.dir.join("redis.sock")
}

/// The server, until this process is killed.
fn server(task: &Task) -> Result<()> {
    let mut command = Command::new(PROGRAM);
    command
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(socket(task))
        .args(["--client-output-buffer-limit", "pubsub 0 0 0", "--dir"]);
    match task.job {
        Job::Synced => {
            command
                .arg(&task.disk)
                .args(["--appendonly", "yes", "--appendfsync", "always"])
        }
        _ => command.arg(&task.dir).args(["--appendonly", "no"]),
    };
    // Its log would be taken for words of this process.
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // SAFETY: one system call, which takes no lock and allocates nothing.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let mut child = command.spawn().with_context(|| PROGRAM.to_owned())?;
    let start = Instant::now();
    while connection(task).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("{PROGRAM} ended, {status}");
        }
        ensure!(start.elapsed() < PATIENCE, "{PROGRAM} does not answer");
        std::thread::sleep(Duration::from_millis(2));
    }
    say("ready")?;
    let status = child.wait()?;
    bail!("{PROGRAM} ended, {status}")
}

/// A connection, which says nothing to the server until it is used.
fn connection(task: &Task) -> Result<Connection> {
    let settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    let info = ConnectionAddr::Unix(socket(task))
        .into_connection_info()?
        .set_redis_settings(settings);
    Ok(Client::open(info)?.get_connection()?)
}

/// A command that ends with payloads, in the server's protocol.
struct Packed {
    bytes: Vec<u8>,
    payload: usize,
    count: usize,
}

impl Packed {
    fn new(start: &[&str], payload: usize, count: usize) -> Packed {
        let mut command = redis::Cmd::new();
        for arg in start {
            command.arg(arg);
        }
        for _ in 0..count {
            command.arg(vec![0u8; payload]);
        }
        Packed {
            bytes: command.get_packed_command(),
            payload,
            count,
        }
    }

    /// Makes `n` and those after it the payloads, and returns the command.
    #[inline(always)]
    fn with(&mut self, n: u64) -> &[u8] {
        // A payload has its length, and ends of lines, before and behind it.
        let step = self.payload + format_len(self.payload);
        let start = self.bytes.len() - step * self.count;
        for (n, argument) in (n..).zip(self.bytes[start..].chunks_exact_mut(step)) {
            let end = step - 2;
            fill(&mut argument[end - self.payload..end], n);
        }
        &self.bytes
    }
}

/// Bytes of `$`, the length, and two ends of lines.
fn format_len(payload: usize) -> usize {
    let digits = payload.checked_ilog10().map_or(1, |log| log as usize + 1);
    1 + digits + 2 + 2
}

/// A connection that publishes, and is told nothing of it.
struct Publisher {
    connection: Connection,
    publish: Packed,
}

impl Publisher {
    fn new(task: &Task, channel: &str) -> Result<Publisher> {
        let mut connection = connection(task)?;
        connection
            .send_packed_command(&cmd("CLIENT").arg("REPLY").arg("OFF").get_packed_command())?;
        Ok(Publisher {
            connection,
            publish: Packed::new(&["PUBLISH", channel], task.bytes, 1),
        })
    }

    fn publish(&mut self, n: u64) -> Result<()> {
        Ok(self.connection.send_packed_command(self.publish.with(n))?)
    }
}

/// A connection that has subscribed. It is not closed before the process ends: subscriptions borrow it.
fn subscribed(task: &Task, channel: &str) -> Result<PubSub<'static>> {
    let connection = Box::leak(Box::new(connection(task)?));
    let mut subscription = connection.as_pubsub();
    subscription.subscribe(channel)?;
    Ok(subscription)
}

/// Messages by two channels.
struct Channels {
    there: Publisher,
    back: PubSub<'static>,
}

impl Link for Channels {
    fn open(task: &Task, side: Side) -> Result<Channels> {
        let (there, back) = match side {
            Side::Lead => ("there", "back"),
            Side::Peer => ("back", "there"),
        };
        Ok(Channels {
            there: Publisher::new(task, there)?,
            back: subscribed(task, back)?,
        })
    }

    fn send(&mut self, n: u64) -> Result<()> {
        self.there.publish(n)
    }

    fn receive(&mut self) -> Result<Option<u64>> {
        number(self.back.get_message()?.get_payload_bytes()).map(Some)
    }
}

/// Messages of one command.
const BATCH: usize = 256;
/// Commands under way.
const UNDER_WAY: usize = 4;
/// Messages that the receiver may be behind.
const BEHIND: i64 = 1 << 16;
/// What is behind the last message.
const END: &str = "end";

/// Messages by a list: one pushes, the other pops.
struct Queue {
    connection: Connection,
    push: Packed,
    under_way: usize,
    behind: i64,
    pop: Vec<u8>,
    is_over: bool,
}

impl Queue {
    /// Hears how long the list was after one command.
    fn hear(&mut self) -> Result<()> {
        match self.connection.recv_response()? {
            Reply::Int(behind) => self.behind = behind,
            other => bail!("{other:?} in answer to RPUSH"),
        }
        self.under_way -= 1;
        Ok(())
    }
}

impl Stream for Queue {
    fn open(task: &Task, _: Side) -> Result<Queue> {
        let mut pop = cmd("BLMPOP");
        pop.arg(0)
            .arg(1)
            .arg("list")
            .arg("LEFT")
            .arg("COUNT")
            .arg(BATCH);
        Ok(Queue {
            connection: connection(task)?,
            push: Packed::new(&["RPUSH", "list"], task.bytes, BATCH),
            under_way: 0,
            behind: 0,
            pop: pop.get_packed_command(),
            is_over: false,
        })
    }

    fn send(&mut self, next: u64) -> Result<u64> {
        if self.under_way == UNDER_WAY {
            self.hear()?;
        }
        if self.behind > BEHIND {
            // The next answer says more.
            if self.under_way == 0 {
                self.connection
                    .send_packed_command(&cmd("LLEN").arg("list").get_packed_command())?;
                self.under_way += 1;
            }
            self.hear()?;
            return Ok(0);
        }
        self.connection.send_packed_command(self.push.with(next))?;
        self.under_way += 1;
        Ok(BATCH as u64)
    }

    fn flush(&mut self) -> Result<()> {
        let end = cmd("RPUSH").arg("list").arg(END).get_packed_command();
        self.connection.send_packed_command(&end)?;
        self.under_way += 1;
        while self.under_way > 0 {
            self.hear()?;
        }
        Ok(())
    }

    fn receive(&mut self, next: u64) -> Result<u64> {
        if self.is_over {
            return Ok(0);
        }
        let Reply::Array(reply) = self.connection.req_packed_command(&self.pop)? else {
            bail!("no list in answer to BLMPOP");
        };
        let [_, Reply::Array(messages)] = &reply[..] else {
            bail!("{} parts in answer to BLMPOP", reply.len());
        };
        let mut expected = next;
        for message in messages {
            let Reply::BulkString(payload) = message else {
                bail!("an element is no string");
            };
            if payload == END.as_bytes() {
                self.is_over = true;
                break;
            }
            throughput::expect(number(payload)?, expected)?;
            expected += 1;
        }
        Ok(expected - next)
    }
}

/// The value of a key.
struct Key {
    connection: Connection,
    set: Packed,
    get: Vec<u8>,
}

impl Key {
    fn new(task: &Task, name: &str) -> Result<Key> {
        Ok(Key {
            connection: connection(task)?,
            set: Packed::new(&["SET", name], task.bytes, 1),
            get: cmd("GET").arg(name).get_packed_command(),
        })
    }

    fn newest(&mut self) -> Result<Vec<u8>> {
        match self.connection.req_packed_command(&self.get)? {
            Reply::BulkString(value) => Ok(value),
            Reply::Nil => Ok(Vec::new()),
            other => bail!("{other:?} in answer to GET"),
        }
    }
}

impl Value for Key {
    const STANDBY: bool = true;

    fn open(task: &Task, _: Side) -> Result<Key> {
        Key::new(task, "value")
    }

    fn write(&mut self, n: u64) -> Result<()> {
        match self.connection.req_packed_command(self.set.with(n))? {
            Reply::Okay => Ok(()),
            other => bail!("{other:?} in answer to SET"),
        }
    }

    fn read(&mut self) -> Result<u64> {
        number(&self.newest()?)
    }
}

/// A subscriber that sleeps.
struct Subscriber {
    there: Option<Publisher>,
    back: Option<PubSub<'static>>,
}

impl Bell for Subscriber {
    fn open(task: &Task, side: Side) -> Result<Subscriber> {
        Ok(match side {
            Side::Lead => Subscriber {
                there: Some(Publisher::new(task, "bell")?),
                back: None,
            },
            Side::Peer => Subscriber {
                there: None,
                back: Some(subscribed(task, "bell")?),
            },
        })
    }

    fn ring(&mut self, n: u64) -> Result<()> {
        self.there
            .as_mut()
            .context("the sleeper does not ring")?
            .publish(n)
    }

    fn wait(&mut self) -> Result<u64> {
        let back = self.back.as_mut().context("the writer does not sleep")?;
        number(back.get_message()?.get_payload_bytes())
    }
}

/// Many keys.
struct Keys;

impl State for Keys {
    fn host(task: &Task) -> Result<Keys> {
        let mut connection = connection(task)?;
        let mut value = vec![0; task.bytes];
        for at in 0..VALUES {
            fill(&mut value, at as u64 + 1);
            let set = cmd("SET")
                .arg(format!("value/{at}"))
                .arg(&value)
                .get_packed_command();
            ensure!(
                connection.req_packed_command(&set)? == Reply::Okay,
                "a value was not set"
            );
        }
        Ok(Keys)
    }

    fn join(task: &Task, take: &mut dyn FnMut(usize, &[u8]) -> Result<()>) -> Result<()> {
        let mut get = cmd("MGET");
        for at in 0..VALUES {
            get.arg(format!("value/{at}"));
        }
        let reply = connection(task)?.req_packed_command(&get.get_packed_command())?;
        let Reply::Array(values) = reply else {
            bail!("no list in answer to MGET");
        };
        for (at, value) in values.iter().enumerate() {
            match value {
                Reply::BulkString(value) => take(at, value)?,
                _ => bail!("value {at} is not there"),
            }
        }
        Ok(())
    }
}

/// A server that writes each command to the disk before it answers.
struct Log(Task);

impl Engine for Log {
    type Session<'e> = Key;

    fn open(task: &Task) -> Result<Log> {
        Ok(Log(task.clone()))
    }

    fn session(&self, thread: usize) -> Result<Key> {
        Key::new(&self.0, &format!("thread/{thread}"))
    }

    fn commit(&self, session: &mut Key, payload: &[u8]) -> Result<()> {
        session.write(number(payload)?)
    }

    fn newest(&self, session: &mut Key) -> Result<Vec<u8>> {
        session.newest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_command_carries_its_payloads() {
        for payload in [8, 64, 1024, 1 << 20] {
            let mut packed = Packed::new(&["RPUSH", "list"], payload, 3);
            let mut command = cmd("RPUSH");
            command.arg("list");
            for n in 7..10 {
                let mut bytes = vec![0; payload];
                fill(&mut bytes, n);
                command.arg(bytes);
            }
            assert_eq!(packed.with(7), command.get_packed_command());
        }
    }
}
