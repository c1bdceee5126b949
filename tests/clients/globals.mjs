// What newer versions of node have as globals, for older ones. To be imported
// before libraries that look for them.
import { webcrypto } from 'node:crypto';
import WebSocket from 'ws';

globalThis.crypto ??= webcrypto;
globalThis.WebSocket ??= WebSocket;
