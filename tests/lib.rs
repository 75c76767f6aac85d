//! Nothing of its own: the tests are in `it/`, the client programs that they run in `clients/`.
