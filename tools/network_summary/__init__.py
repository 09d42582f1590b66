"""What `tools.summary` prints: sizes of networks beside their papers', and the taps of one."""
