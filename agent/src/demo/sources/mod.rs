//! Live data of this machine, as pages.
