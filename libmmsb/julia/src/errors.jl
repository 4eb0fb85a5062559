# What can go wrong, as types. Both faces throw the same ones, so that a program can change its face without changing
# its `catch`.

"""
    MMSBError

Supertype of every exception of this package about buses and pages. Wrong arguments are `ArgumentError`s, as
everywhere in Julia.
"""
abstract type MMSBError <: Exception end

for (name, meaning) in (
    (:MissingBus, "There is no bus, or no log, of this name."),
    (:BusExists, "A bus of this name exists already."),
    (:BadName, "A name that no bus or page can have."),
    (:BadConfig, "A size or an option is out of range."),
    (:Initialising, "The bus is being made; try again."),
    (:WrongLayout, "The object of this name is no bus, is cut short, or has another layout than this package reads."),
    (:AccessDenied, "The kernel, or the mode of the bus, refused access."),
    (:BusGone, "The bus was replaced by a rebuild, or removed. Observe or start it anew."),
    (:BusFull, "No room: in the tmpfs, in the bus, or in one of its tables."),
    (:Corrupt, "Bytes of the bus make no sense. `mmsb doctor` looks into it."),
    (:NoSuchPage, "There is no page of this name or number."),
    (:PageExists, "A page of this name exists already."),
    (:PageGone, "The page was deleted since it was looked up."),
    (:OutOfRange, "Bytes outside of the page, or ranges that overlap."),
    (:WrongSize, "The value has another size than the page."),
    (:WrongSchema, "The type, or the schema, is not that of the page."),
    (:BadSchema, "Text that is no schema."),
    (:NoSchema, "The page has no schema, or one of a version that this package cannot decode."),
    (:NoSuchField, "The page's schema has no such field."),
    (:TooLarge, "The delta does not fit the ring."),
    (:ReadOnly, "The bus was opened for reading only."),
    (:OtherBus, "The page belongs to another bus."),
    (:TimedOut, "Another participant, slow or stopped, holds what is needed. Nothing was changed; try again."),
    (:Backpressure, "The ring is full, and a gating subscriber or the log is behind. Nothing was changed; try again."),
    (:NoSupervisor, "The ring is full, the log holds it, and nobody writes the log. Nothing was changed."),
    (:NotDurable, "The change is made and visible, but not on disk. Making it again would make it twice."),
    (:Conflict, "Another writer changed a page that this transaction had read. Nothing was changed; try again."),
    (:NotLoaned, "The page's content is no loaned block."),
    (:TooManyHeld, "Too many things are held at once."),
    (:Diverged, "The LSN is of a time that a rebuild has cut off."),
    (:NotInLog, "The log does not hold this moment."),
    (:DamagedLog, "Files of the log are damaged, foreign, or of a newer version."),
    (:DamagedCheckpoint, "A checkpoint is damaged or foreign."),
    (:SupervisorFailed, "Whoever writes the log reported a failure."),
    (:Closed, "This handle was closed."),
    (:WrongThread, "The handle belongs to another thread."),
    (:Busy, "Another thread is inside a call with this handle."),
    (:Forked, "The handle was made ahead of a fork; the child needs its own."),
    (:IOFailure, "The operating system refused."),
    (:Failed, "Any other failure; the message says what."),
    (:InternalError, "The library found itself broken: please report it."),
    (:LibraryMissing, "libmmsb.so was not found, or does not fit this package."),
)
    @eval begin
        @doc $meaning
        struct $name <: MMSBError
            message::String
        end
        export $name
    end
end

"""
    Stalled

A writer is inside the page and has not moved for the reader's whole patience: it was stopped, or it died and no
participant has finished its work yet. The next writer or participant will. `retries`: attempts that were made.
"""
struct Stalled <: MMSBError
    message::String
    retries::Int
end

"""
    Contended

The page changed during each attempt to copy it, for the reader's whole patience. A page that is written without pause
should be a cell (created with `versions = 4` or more). `retries`: attempts that were made.
"""
struct Contended <: MMSBError
    message::String
    retries::Int
end

Stalled(message) = Stalled(message, 0)
Contended(message) = Contended(message, 0)

Base.showerror(io::IO, error::MMSBError) = print(io, nameof(typeof(error)), ": ", error.message)
