//! Whole-pipeline tests against real clients, real sockets and kill -9.
