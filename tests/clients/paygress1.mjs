// A consumer of the dialect that is in use on the network ("paygress/1"), as
// its existing command line behaves: NIP-04, no request ids, and the first
// message of the provider is the answer, whatever it says.
//
//   node paygress1.mjs RELAY list
//   node paygress1.mjs RELAY spawn PROVIDER TOKEN [TIER]
//   node paygress1.mjs RELAY topup PROVIDER POD TOKEN
//   node paygress1.mjs RELAY status PROVIDER POD
//
// PROVIDER is a public key in hex or a hostname. $NOSTR_SECRET is the secret
// key in hex; without it there is a new one. $CLOCK_AHEAD: seconds by which its
// clock is ahead. Prints one JSON object: the list,
// or the reply as it came. Exit code 0; 1: refused before anything was sent, or
// no reply; 2: the reply is an error; 3: the reply lacks what has to be in it.
import './globals.mjs';
import { randomBytes } from 'node:crypto';
import { getTokenMetadata } from '@cashu/cashu-ts';
import * as nip04 from 'nostr-tools/nip04';
import { unwrapEvent } from 'nostr-tools/nip59';
import { SimplePool } from 'nostr-tools/pool';
import { finalizeEvent, generateSecretKey, getPublicKey } from 'nostr-tools/pure';

const [relay, command, wanted, ...args] = process.argv.slice(2);
const secret = process.env.NOSTR_SECRET
  ? Uint8Array.from(Buffer.from(process.env.NOSTR_SECRET, 'hex')) : generateSecretKey();
const me = getPublicKey(secret);
const pool = new SimplePool();
const now = () => Math.floor(Date.now() / 1000) + Number(process.env.CLOCK_AHEAD ?? 0);
const parse = (text) => { try { return JSON.parse(text); } catch { return undefined; } };
const MUST = {
  spawn: ['pod_npub', 'node_port', 'expires_at', 'cpu_millicores', 'memory_mb', 'pod_spec_name',
    'pod_spec_description', 'instructions'],
  topup: ['success', 'pod_npub', 'extended_duration_seconds', 'new_expires_at', 'message'],
  status: ['pod_id', 'status', 'expires_at', 'time_remaining_seconds', 'cpu_millicores', 'memory_mb',
    'ssh_host', 'ssh_port', 'ssh_username'],
};
const WAIT = { spawn: 120, topup: 60, status: 30 };

// Offers, and whether a heartbeat of less than two minutes ago names the same
// string as the offer.
async function discover() {
  const events = await pool.querySync([relay], { kinds: [38383], '#t': ['paygress'] }, { maxWait: 5000 });
  const offers = new Map();
  for (const event of events.sort((a, b) => a.created_at - b.created_at)) {
    const offer = parse(event.content);
    if (offer?.provider_npub === event.pubkey && offer.specs?.length) offers.set(event.pubkey, offer);
  }
  const authors = [...offers.keys()];
  const filter = { kinds: [38384], authors, since: now() - 300 };
  const beats = authors.length ? await pool.querySync([relay], filter, { maxWait: 3000 }) : [];
  for (const body of beats.map((beat) => parse(beat.content))) {
    const offer = offers.get(body?.provider_npub);
    if (offer) offer.seen = Math.max(offer.seen ?? 0, body.timestamp);
  }
  return [...offers.values()].map(({ seen, ...offer }) => ({ ...offer, online: now() - (seen ?? 0) < 120 }));
}

// A provider that spawns what this token pays for.
async function checked(token, tier) {
  const named = (offer) => [offer.provider_npub, offer.hostname.toLowerCase()].includes(wanted.toLowerCase());
  const offer = (await discover()).find(named);
  if (!offer) throw new Error('provider not found');
  if (!offer.online) throw new Error('provider is offline');
  if (tier && !offer.specs.some((spec) => spec.id === tier)) throw new Error(`no tier ${tier}`);
  const plain = (url) => url.replace(/\/+$/, '').toLowerCase();
  const mint = plain(getTokenMetadata(token).mint);
  if (!offer.whitelisted_mints.some((url) => plain(url) === mint)) throw new Error('mint not accepted');
  return offer;
}

// What the provider wrote, if this event is for me and not over (NIP-40).
function read(event, provider) {
  const ends = event.tags.find(([name]) => name === 'expiration')?.[1];
  if (ends !== undefined && Number(ends) <= now()) return undefined;
  try {
    if (event.kind === 4) return event.pubkey === provider ? nip04.decrypt(secret, provider, event.content) : undefined;
    const rumor = unwrapEvent(event, secret);
    return rumor.kind === 14 && rumor.pubkey === provider ? rumor.content : undefined;
  } catch {
    return undefined;
  }
}

async function ask(provider, body) {
  const content = nip04.encrypt(secret, provider, JSON.stringify(body));
  const tags = [['p', provider], ['alt', 'Private Message']];
  const request = finalizeEvent({ kind: 4, created_at: now(), tags, content }, secret);
  await Promise.any(pool.publish([relay], request));
  return new Promise((done, failed) => {
    setTimeout(() => failed(new Error('no reply')), WAIT[command] * 1000);
    pool.subscribe([relay], { kinds: [4, 1059], '#p': [me], since: now() - 60 }, {
      onevent(event) {
        const text = read(event, provider);
        if (text !== undefined) done(text);
      },
    });
  });
}

async function request() {
  if (command === 'status') return { pod_id: args[0] };
  if (command === 'topup') return { pod_npub: args[0], cashu_token: args[1] };
  const [token, tier = null] = args;
  await checked(token, tier); // what the command does twice, all of it
  await checked(token, tier);
  const ssh_password = randomBytes(8).toString('hex');
  return { cashu_token: token, pod_spec_id: tier, pod_image: 'ubuntu:22.04', ssh_username: 'user', ssh_password };
}

async function main() {
  if (command === 'list') return [{ offers: await discover() }, 0];
  const hex = /^[0-9a-f]{64}$/.test(wanted);
  const body = await request();
  const provider = hex ? wanted : (await discover()).find((one) => one.hostname.toLowerCase() === wanted.toLowerCase())?.provider_npub;
  const reply = parse(await ask(provider, body));
  if (reply?.error_type) return [reply, 2];
  return [reply, MUST[command].every((field) => field in (reply ?? {})) ? 0 : 3];
}

main().then(([what, code]) => {
  console.log(JSON.stringify(what));
  process.exit(code);
}, (error) => {
  console.log(JSON.stringify({ error: error.message }));
  process.exit(1);
});
