"""How anything is executed: commands, the gate and readiness probes."""
