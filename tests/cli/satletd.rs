//! See [`super`]. Filled below.
