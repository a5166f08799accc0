"""What the tests of faults share: a proxy that misbehaves, damaged images, jobs to kill, the account afterwards."""
