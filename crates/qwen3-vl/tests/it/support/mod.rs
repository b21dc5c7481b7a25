//! Code that the tests share.
#![allow(dead_code, reason = "every test uses a part of it")]

pub mod ask;
pub mod demo;
pub mod hub_case;
pub mod hub_server;
