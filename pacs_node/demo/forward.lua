-- Orthanc's forwarding rule: every object that it stores goes on to the modality "pacs-node" by C-STORE,
-- except what that modality itself sent and results of a pacs-node that came by another way.
-- The modality stands under "DicomModalities" in Orthanc's configuration, or is set with PUT /modalities.

local NODE = 'pacs-node'

function OnStoredInstance(instanceId, tags, metadata, origin)
  local modalities = ParseJson(RestApiGet('/modalities?expand'))
  local node = modalities[NODE]
  if not node then
    return
  end
  local fromNode = origin.RequestOrigin == 'DicomProtocol' and origin.RemoteAet == node.AET
  local ownResult = tags['Manufacturer'] == 'pacs-node'
  if not (fromNode or ownResult) then
    SendToModality(instanceId, NODE)
  end
end
