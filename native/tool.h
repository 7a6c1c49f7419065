/* Running an executable of the host for the engine: a network plugin, an OCI runtime. See TOOL in docs/native.md. */
#pragma once
#include "frame.h"

/*
 * Serves one TOOL request in a process of its own, which holds the connection and the state directory's lock and nothing else
 * that matters. Ends with the answer, or with the connection: then the tool and its process group have been killed.
 */
_Noreturn void tool_main(int connection, const struct frame *frame);
