"""Problems and helpers that several files of tests share."""
