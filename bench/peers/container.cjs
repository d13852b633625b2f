// Makes a container: container.cjs NODE_FOLDER BLOB_CONNECTION_STRING NAME
const { createRequire } = require('node:module')
const path = require('node:path')

const [folder, connection, name] = process.argv.slice(2)
const { BlobServiceClient } = createRequire(path.join(folder, 'package.json'))('@azure/storage-blob')

BlobServiceClient.fromConnectionString(connection).getContainerClient(name).create()
  .catch(error => { console.error(error); process.exit(1) })
