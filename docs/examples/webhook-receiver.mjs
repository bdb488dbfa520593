// Takes the calls of a webhook: WEBHOOK_SECRET=whsec_... node docs/examples/webhook-receiver.mjs [port]
import { createServer } from 'node:http';
import { text } from 'node:stream/consumers';
import { unwrapWebhook } from 'cherryq';

const seen = new Set();

const server = createServer(async (request, response) => {
  try {
    const event = await unwrapWebhook(await text(request), request.headers, process.env.WEBHOOK_SECRET);
    // Answer first: slow work belongs after it. A call can come twice, with the same id.
    response.writeHead(204).end();
    const id = request.headers['webhook-id'];
    if (seen.has(id)) return;
    seen.add(id);
    console.log(`${event.type} ${event.data.id}`);
  } catch (error) {
    response.writeHead(400).end(error.message);
  }
});

server.listen(Number(process.argv[2] ?? 8080), () => console.log(`listening on ${server.address().port}`));
