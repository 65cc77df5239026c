"""Runs a program of WebAssembly: wasi.py PROGRAM [ARGUMENT...]"""

import sys

import wasmtime

config = wasmtime.WasiConfig()
config.argv = sys.argv[1:]
config.inherit_stdout()
config.inherit_stderr()
engine = wasmtime.Engine()
store = wasmtime.Store(engine)
store.set_wasi(config)
linker = wasmtime.Linker(engine)
linker.define_wasi()
try:
    main = linker.instantiate(store, wasmtime.Module.from_file(engine, sys.argv[1]))
    main.exports(store)["_start"](store)
except wasmtime.ExitTrap as end:
    sys.exit(end.code)
