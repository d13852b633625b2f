// Sends messages of 1 KiB in batches to a queue, then receives and completes them: bus.cjs NODE_FOLDER BUS QUEUE COUNT
const { createRequire } = require('node:module')
const path = require('node:path')

const [folder, connection, queue, count] = process.argv.slice(2)
const { ServiceBusClient } = createRequire(path.join(folder, 'package.json'))('@azure/service-bus')

const main = async () => {
  const client = new ServiceBusClient(connection)
  const [sender, receiver] = [client.createSender(queue), client.createReceiver(queue)]
  const body = 'x'.repeat(1024)
  const began = performance.now()
  for (let sent = 0; sent < Number(count);) {
    const batch = await sender.createMessageBatch()
    while (sent < Number(count) && batch.count < 100 && batch.tryAddMessage({ body, messageId: String(sent) })) sent += 1
    await sender.sendMessages(batch)
  }
  let received = 0
  while (received < Number(count)) {
    const messages = await receiver.receiveMessages(100, { maxWaitTimeInMs: 30_000 })
    if (messages.length === 0) throw new Error(`only ${received} of ${count} messages came`)
    await Promise.all(messages.map(message => receiver.completeMessage(message)))
    received += messages.length
  }
  const seconds = (performance.now() - began) / 1000
  await client.close()
  console.log(JSON.stringify({ seconds, result: `${received} messages`, figures: { 'messages/s': received / seconds } }))
}

main().catch(error => { console.error(error); process.exit(1) })
